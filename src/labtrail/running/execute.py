"""One run from start to end: claim, follow the stream of records, end honestly."""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from labtrail.config import ConfigT
from labtrail.errors import CodeError, LabtrailError, Stopped, Superseded
from labtrail.record import Record
from labtrail.running.claim import Claim, claim, open_beside, wait_for_lock
from labtrail.running.fence import Fence
from labtrail.running.identity import Identity, identify
from labtrail.running.launch import make_accelerator, require_one_process
from labtrail.running.rank_reports import EndStatus, RankReports, Verdict
from labtrail.running.session import Session
from labtrail.running.signals import Guard, Interrupted
from labtrail.running.task import Task
from labtrail.running.work import ALREADY_DONE, Work, remark_on, work_of
from labtrail.running.writer import RunWriter, Status, register
from labtrail.store import connection, contract, lab

_log = logging.getLogger("labtrail")

GRACE_S = 10.0
_POLL_S = 2.0
_TAKEOVER_S = 300.0
_COLLECTIVE_MARKS = ("gloo", "NCCL", "TCPStore", "Connection closed by peer", "Connection reset")


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of this decides a result.

    Attributes:
        again: run again although the work may be done.
        keep: let a run of other code count, or continue it.
        processes: how many processes there must be; None: as many as were started.
        timeout_s: seconds after which a rank that does not answer counts as lost.
        register: name in the model registry for the run's best weights; empty: none.
        watch: called with each record once it is logged; may end the run by raising ``Stopped``.
        tags: further tags of the run.
        command: words after ``python`` that start the task, without its options; empty: ``labtrail run TASK``.
        reproduces: id of the run that this one repeats, to compare them; empty: it is work of its own.
    """

    again: bool = False
    processes: int | None = None
    timeout_s: float = 600.0
    register: str = ""
    watch: Callable[[Record], None] = lambda _record: None
    tags: Mapping[str, str] = field(default_factory=dict)
    keep: bool = False
    command: Sequence[str] = ()
    reproduces: str = ""


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: the exit status, 0 only if the work is done.
        run_id: the run that holds the work.
    """

    status: int
    run_id: str


def execute(task: Task[ConfigT], config: ConfigT, options: Options) -> int:
    """Runs a task to its end, however that is; the exit status."""
    return run_task(task, config, options).status


def run_task(task: Task[ConfigT], config: ConfigT, options: Options) -> Outcome:
    """Runs a task to its end, however that is."""
    return run_work(work_of(task, config), options)


def run_work(work: Work[ConfigT], options: Options) -> Outcome:
    """Does a piece of work to its end, however that is; work that is done already is not done again."""
    begun = begin_attempt(work, options)
    if isinstance(begun, Outcome):
        return begun
    return Outcome(begun.run_to_end(), begun.session.run_id)


def begin_attempt(work: Work[ConfigT], options: Options) -> "Attempt | Outcome":
    """Claims a piece of work; an outcome where it has been done.

    Raises:
        CodeError: a run of other code holds the work.
        LaunchError: the machine does not offer what the config asks for.
    """
    task, config = work.task, work.config
    accelerator = make_accelerator(config.compute, options.processes, options.timeout_s)
    if task.one_process:
        require_one_process(accelerator, task.name)
    identity = identify(work, accelerator, options.tags)
    again = options.again or task.missing(config)
    claimed = _claim_together(task, identity, accelerator, replace(options, again=again))
    if claimed.state == "finished":
        if accelerator.is_main_process:
            tags = connection.current_store().get_run(claimed.run_id).data.tags
            _log.info(ALREADY_DONE, claimed.run_id, remark_on(tags))
            _register(claimed.run_id, options.register)
        return Outcome(contract.DONE, claimed.run_id)
    try:
        attempt = _broadcast(uuid.uuid4().hex)
        session = Session(task, config, identity, claimed.run_id, accelerator, attempt, options.command)
        return Attempt(task, session, accelerator, options, attempt, claimed)
    except Interrupted as interruption:
        if accelerator.is_main_process:
            RunWriter(claimed.run_id).end("KILLED", str(interruption))
        raise


def run_records(task: Task[Any], session: Session[Any]) -> Iterator[Record]:
    """Drives a task: logs each record, saves the state it leaves, and passes the record on.

    Log comes before save, both behind the next epoch: a crash between the two repeats a point and never
    loses one.
    """
    began = time.perf_counter()
    records = task.records(session.config, session.run)
    session.run.watch.follow(records)
    with session.run.watch, closing(records):
        for record in records:
            session.log_and_checkpoint(record, time.perf_counter() - began)
            yield record
            began = time.perf_counter()
    session.finish()


def _register(run_id: str, name: str) -> None:
    if name:
        version = register(run_id, name)
        _log.info("registered as models:/%s/%s, alias %s", name, version, contract.NEWEST)


class Attempt:
    """One process's part in one attempt at a run.

    Attributes:
        session: of the run.
    """

    def __init__(
        self,
        task: Task[Any],
        session: Session[Any],
        accelerator: Accelerator,
        options: Options,
        attempt: str,
        claimed: Claim,
    ) -> None:
        self.session = session
        self._task, self._accelerator, self._options, self._claim = task, accelerator, options, claimed
        folder = lab.state_folder() / "peers" / f"{session.run_id}-{attempt}"
        self._reports = RankReports(folder, accelerator.process_index, accelerator.num_processes)
        self._guard = Guard(GRACE_S, self._last_words)

    def run_to_end(self) -> int:
        """Drives the task; the exit status."""
        try:
            # A signal may arrive between an error and its handling: the outer clause still closes the run.
            try:
                self.begin()
                for record in run_records(self._task, self.session):
                    self._options.watch(record)
                return self.end(None)
            except Exception as error:
                return self.end(error)
        except Interrupted as interruption:
            return self.end(interruption)
        finally:
            self.close()

    def begin(self) -> None:
        """Takes the signals over and opens the run."""
        self._guard.arm()
        self.session.begin()

    def end(self, error: BaseException | None) -> int:
        """Ends the run as its work has ended; the exit status.

        Args:
            error: that its work was left with; None: it came to its end.
        """
        if error is None:
            self._accelerator.wait_for_everyone()
            self._reports.report_end("FINISHED", "")
            if self._accelerator.is_main_process:
                self.session.write_summary()
        self._guard.disarm()
        match error:
            case None:
                self._close("FINISHED")
                if self._accelerator.is_main_process:
                    _register(self.session.run_id, self._options.register)
                return contract.DONE
            case Superseded():
                _log.warning("%s", error)
                return error.exit_status
            case Stopped() | Interrupted():
                self._end("KILLED", str(error))
                return error.exit_status
            case Exception():
                return self._failed(error)
            case _:
                self._end("KILLED", type(error).__name__)
                return contract.FAILED

    def close(self) -> None:
        """Gives the signals back, and the lock on the work."""
        self._guard.close()
        if self._claim.lock is not None:
            self._claim.lock.release()

    def _failed(self, error: Exception) -> int:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, LabtrailError):
            print(f"error: {error}", file=sys.stderr)
        else:
            _log.exception("the task failed")
        self._end("FAILED", text, consequence=_is_consequence(error))
        return error.exit_status if isinstance(error, LabtrailError) else contract.FAILED

    def _end(self, status: EndStatus, reason: str, *, consequence: bool = False) -> None:
        # Whatever fails on the way out, the run must be closed.
        try:
            self._reports.report_end(status, reason, consequence=consequence)
        except Exception as error:
            _log.error("while ending: %s: %s", type(error).__name__, error)
        self.session.flush()
        if self._reports.closes_run():
            verdict = self._reports.verdict(Verdict(status, reason))
            self._close(verdict.status, verdict.reason)
        self.session.upload_last()

    def _last_words(self, name: str) -> None:
        """The main thread has not answered a signal: it hangs, in a collective most likely."""
        silent = Verdict("KILLED", f"{name} (the process did not answer within {GRACE_S:g} s)")
        self._reports.report_end(silent.status, silent.reason)
        if self._reports.closes_run():
            verdict = self._reports.verdict(silent)
            self._close(verdict.status, verdict.reason)

    def _close(self, status: Status, reason: str = "") -> None:
        if status == "FINISHED":
            self._reports.clear()
            if not self._accelerator.is_main_process:
                return
        self.session.end(status, reason)


def _claim_together(task: Task[ConfigT], identity: Identity, accelerator: Accelerator, options: Options) -> Claim:
    """The main process claims, the others learn what; while another process holds the work, all wait.

    Raises:
        CodeError: a run of other code holds the work.
    """
    waiting = False
    while True:
        claimed, question = None, ""
        if accelerator.is_main_process:
            experiment_id = connection.initialise([task.experiment_name])[task.experiment_name]
            try:
                claimed = _claimed(identity, experiment_id, options)
            except CodeError as error:
                question = str(error)
            if claimed is not None and claimed.state == "busy" and (fence := Fence(claimed.run_id)).contested:
                claimed = _taken_over(claimed, fence)
        answer = (claimed.state, claimed.run_id, question) if claimed else ("", "", question)
        state, run_id, question = _broadcast(answer)
        if question:
            raise CodeError(question)
        if state != "busy":
            return claimed or Claim(state, run_id)
        if not waiting and accelerator.is_main_process:
            _log.info("run %s is doing this very work in another process; waiting for it", run_id)
        waiting = True
        time.sleep(_POLL_S)


def _claimed(identity: Identity, experiment_id: str, options: Options) -> Claim:
    client = connection.current_store()
    if options.reproduces:
        return open_beside(client, identity, experiment_id, options.reproduces)
    return claim(client, identity, experiment_id, options.again, os.environ.get("MLFLOW_RUN_ID"), options.keep)


def _taken_over(busy: Claim, fence: Fence) -> Claim:
    """The work of an attempt that its scheduler has given up but whose process is still there.

    It finds itself shut out at its next write, and ends. One that does not end for minutes hangs or is in a long epoch;
    it cannot write either way.
    """
    _log.warning("run %s: an earlier attempt is still alive; it is shut out", busy.run_id)
    fence.activate()
    lock = wait_for_lock(busy.run_id, _TAKEOVER_S)
    return Claim("mine", busy.run_id, lock)


def _broadcast(value: Any) -> Any:
    """The main process's value on every rank."""
    return broadcast_object_list([value])[0]


def _is_consequence(error: Exception) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _COLLECTIVE_MARKS)

"""One run from start to end: claim, follow the stream of records, end honestly."""

import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from labtrail import contract
from labtrail.config import Config, fingerprint
from labtrail.errors import LabtrailError, Stopped, Superseded
from labtrail.figures import learning_curves
from labtrail.query import scores
from labtrail.query.query import Query
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.claim import Claim, Identity, claim, wait_for_lock
from labtrail.running.fence import Fence
from labtrail.running.launch import make_accelerator
from labtrail.running.provenance import cluster_facts, device_name, git_tags, peak_memory_mib
from labtrail.running.rank_reports import EndStatus, Peers, Verdict
from labtrail.running.record import DataSource, Record
from labtrail.running.signals import Guard, Interrupted
from labtrail.running.task import Task
from labtrail.running.writer import Run, Status, checked, register
from labtrail.store import connection, locks

_log = logging.getLogger("labtrail")

GRACE_S = 10.0
_POLL_S = 2.0
_TAKEOVER_S = 300.0
_CURVES = ("train/", "validation/")
_MOST_RESULTS = 8
_COLLECTIVE_MARKS = ("gloo", "NCCL", "TCPStore", "Connection closed by peer", "Connection reset")


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of this decides a result.

    Attributes:
        again: run anew although the work may be done.
        processes: how many processes there must be; None: as many as were started.
        timeout_s: seconds after which a rank that does not answer counts as lost.
        register: name in the model registry for the run's best weights; empty: none.
        watch: called with each record once it is logged; may end the run by raising ``Stopped``.
        tags: further tags of the run.
    """

    again: bool = False
    processes: int | None = None
    timeout_s: float = 600.0
    register: str = ""
    watch: Callable[[Record], None] = lambda _record: None
    tags: Mapping[str, str] = field(default_factory=dict)


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        status: the exit status, 0 only if the work is done.
        run_id: the run that holds the work.
    """

    status: int
    run_id: str


def follow(
    task: Task[Config], config: Config, run: Run, accelerator: Accelerator, checkpoint: Checkpoint
) -> Iterator[Record]:
    """Drives a task: logs each record, saves the state it leaves, and passes the record on.

    Log comes before save, both behind the next epoch: a crash between the two repeats a point and never
    loses one.
    """
    began = time.perf_counter()
    with closing(task.function(config, accelerator, checkpoint)) as records:
        for record in records:
            keep(record, run, checkpoint, accelerator, time.perf_counter() - began)
            yield record
            began = time.perf_counter()
    checkpoint.finish()


def keep(record: Record, run: Run, checkpoint: Checkpoint, accelerator: Accelerator, seconds: float) -> None:
    """Logs a record and saves the state that it leaves.

    Args:
        record: what was measured.
        run, checkpoint: of the run that it belongs to.
        accelerator: tells who writes.
        seconds: how long it took.
    """
    extra = {**checkpoint.judge(record), "system/epoch_seconds": seconds}
    extra["system/memory_mib"] = peak_memory_mib()
    checked({**record.metrics, **extra})
    if accelerator.is_main_process:
        checkpoint.save(record, first=partial(run.log, record, extra))
        if record.metrics:
            _log.info("%s", _one_line(record))
    else:
        checkpoint.save(record)


def conclude(run: Run, identity: Identity, metrics: Mapping[str, float]) -> None:
    """The last words of a run that has done its work: a paragraph on its page, and its learning curves."""
    run.describe(_description(identity, metrics))
    history = Query().only([run.run_id]).ended("RUNNING").history()
    per_step = history.groupby("metric")["step"].nunique()
    curves = [name for name in per_step[per_step > 1].index if name.startswith(_CURVES)]
    if curves:
        figure = learning_curves(history[history["metric"].isin(curves)], identity.name)
        run.store_file("figures/curves.png", figure)


def execute(task: Task[Config], config: Config, options: Options) -> int:
    """Runs a task to its end, however that is; the exit status."""
    return run_task(task, config, options).status


def run_task(task: Task[Config], config: Config, options: Options) -> Outcome:
    """Runs a task to its end, however that is."""
    config = task.resolve(config)
    sources = tuple(task.sources(config))
    accelerator = make_accelerator(config.compute, options.processes, options.timeout_s)
    identity = identify(task, config, sources, accelerator, options.tags)
    own = _claim_together(task, identity, accelerator, options.again or task.missing(config))
    if own.state == "finished":
        if accelerator.is_main_process:
            _log.info("already done: run %s has finished this work; --again runs it anew", own.run_id)
            _register(own.run_id, options.register)
        return Outcome(0, own.run_id)
    run, fence = Run(own.run_id), Fence(own.run_id)
    if accelerator.is_main_process:
        fence.raise_()
    try:
        attempt = _Attempt(task, config, run, accelerator, identity, options.watch, fence)
    except Interrupted as interruption:
        if accelerator.is_main_process:
            run.end("KILLED", str(interruption))
        raise
    status = attempt.run_to_end()
    if status == 0 and accelerator.is_main_process:
        _register(own.run_id, options.register)
    return Outcome(status, own.run_id)


def _register(run_id: str, name: str) -> None:
    if name:
        version = register(run_id, name)
        _log.info("registered as models:/%s/%s, alias %s", name, version, contract.NEWEST)


class _Attempt:
    """One process's part in one attempt at a run."""

    def __init__(
        self,
        task: Task[Config],
        config: Config,
        run: Run,
        accelerator: Accelerator,
        identity: Identity,
        watch: Callable[[Record], None],
        fence: Fence,
    ) -> None:
        self._task = task
        self._fence = fence
        self._watch = watch
        self._config = config
        self._run = run
        self._accelerator = accelerator
        self._identity = identity
        token = _broadcast(uuid.uuid4().hex)
        self._token = token
        folder = locks.state_folder() / "peers" / f"{run.run_id}-{token}"
        self._peers = Peers(folder, accelerator.process_index, accelerator.num_processes)
        self._guard = Guard(GRACE_S, self._last_words)
        self._checkpoint: Checkpoint | None = None

    def run_to_end(self) -> int:
        self._guard.arm()
        try:
            # A signal may arrive between an error and its handling: the outer clause still closes the run.
            try:
                self._work()
                self._guard.disarm()
                self._close("FINISHED")
                return 0
            except Superseded as error:
                self._guard.disarm()
                _log.warning("%s", error)
                return error.exit_status
            except Stopped as stop:
                self._guard.disarm()
                self._end("KILLED", str(stop))
                return stop.exit_status
            except Exception as error:
                self._guard.disarm()
                return self._failed(error)
        except Interrupted as interruption:
            self._guard.disarm()
            return self._interrupted(interruption)
        finally:
            self._guard.close()

    def _work(self) -> None:
        if self._accelerator.is_main_process:
            self._run.start(self._identity)
            self._run.download(contract.CHECKPOINTS)
        self._checkpoint = Checkpoint(
            self._run.folder / contract.CHECKPOINTS,
            self._accelerator,
            score=self._task.score,
            config=self._config.model_dump(mode="json"),
            upload=self._run.upload if self._run.remote else None,
            run_id=self._run.run_id,
            permit=self._fence.check,
            attempt=self._token,
        )
        metrics: dict[str, float] = {}
        for record in follow(self._task, self._config, self._run, self._accelerator, self._checkpoint):
            metrics |= record.metrics
            self._watch(record)
        self._accelerator.wait_for_everyone()
        self._peers.leave("FINISHED", "")
        if self._accelerator.is_main_process:
            self._fence.check()
            conclude(self._run, self._identity, metrics)

    def _failed(self, error: Exception) -> int:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, LabtrailError):
            print(f"error: {error}", file=sys.stderr)
        else:
            _log.exception("the task failed")
        self._end("FAILED", text, consequence=_is_consequence(error))
        return error.exit_status if isinstance(error, LabtrailError) else 1

    def _interrupted(self, interruption: Interrupted) -> int:
        self._end("KILLED", str(interruption))
        return interruption.exit_status

    def _end(self, status: EndStatus, reason: str, *, consequence: bool = False) -> None:
        # Whatever fails on the way out, the run must be closed.
        try:
            self._peers.leave(status, reason, consequence=consequence)
            if self._checkpoint is not None:
                self._checkpoint.flush()
        except Exception as error:
            _log.error("while ending: %s: %s", type(error).__name__, error)
        if self._peers.in_charge():
            verdict = self._peers.verdict(Verdict(status, reason))
            self._close(verdict.status, verdict.reason)
        if self._checkpoint is not None:
            self._checkpoint.upload_last()

    def _last_words(self, name: str) -> None:
        """The main thread has not answered a signal: it hangs, in a collective most likely."""
        own = Verdict("KILLED", f"{name} (the process did not answer within {GRACE_S:g} s)")
        self._peers.leave(own.status, own.reason)
        if self._peers.in_charge():
            verdict = self._peers.verdict(own)
            self._close(verdict.status, verdict.reason)

    def _close(self, status: Status, reason: str = "") -> None:
        try:
            self._fence.check()
        except Superseded as error:
            _log.warning("%s", error)
            return
        if status == "FINISHED":
            self._peers.clear()
            if not self._accelerator.is_main_process:
                return
        self._run.end(status, reason)
        _log.info("run %s %s%s", self._run.run_id, status, f": {reason}" if reason else "")


def _claim_together(task: Task[Config], identity: Identity, accelerator: Accelerator, again: bool) -> Claim:
    """The main process claims, the others learn what; while another process holds the work, all wait."""
    told = False
    while True:
        own = None
        if accelerator.is_main_process:
            experiment_id = connection.initialise([task.experiment_name])[task.experiment_name]
            own = claim(connection.current_store(), identity, experiment_id, again, os.environ.get("MLFLOW_RUN_ID"))
            if own.state == "busy" and (fence := Fence(own.run_id)).contested:
                own = _taken_over(own, fence)
        state, run_id = _broadcast((own.state, own.run_id) if own else None)
        if state != "busy":
            return own or Claim(state, run_id)
        if not told and accelerator.is_main_process:
            _log.info("run %s is doing this very work in another process; waiting for it", run_id)
        told = True
        time.sleep(_POLL_S)


def _taken_over(busy: Claim, fence: Fence) -> Claim:
    """The work of an attempt that its scheduler has given up but whose process is still there.

    It finds itself shut out at its next write, and ends. One that does not end for minutes hangs or is in a long epoch;
    it cannot write either way.
    """
    _log.warning("run %s: an earlier attempt is still alive; it is shut out", busy.run_id)
    fence.raise_()
    lock = wait_for_lock(busy.run_id, _TAKEOVER_S)
    return Claim("mine", busy.run_id, lock)


def _broadcast(value: Any) -> Any:
    """The main process's value on every rank."""
    return broadcast_object_list([value])[0]


def work_key(task: Task[Config], config: Config, sources: Sequence[DataSource], processes: int) -> str:
    """The identity of a piece of work: the same task, config, data and number of processes give the same results."""
    return fingerprint(task.name, config, [(source.context, source.digest) for source in sources], processes)


def identify(
    task: Task[Config],
    config: Config,
    sources: Sequence[DataSource],
    accelerator: Accelerator,
    further: Mapping[str, str],
) -> Identity:
    """What a run of this config is of, with the tags that every run carries.

    Args:
        task: whose config it is.
        config: resolved.
        sources: the data it reads.
        accelerator: tells processes and device.
        further: more tags.
    """
    key = work_key(task, config, sources, accelerator.num_processes)
    tags = {
        contract.PROCESSES: str(accelerator.num_processes),
        contract.DEVICE: device_name(accelerator),
        contract.TORCH: str(torch.__version__),
        **git_tags(),
        **cluster_facts(),
        **further,
    }
    if task.score is not None:
        tags[contract.SCORE] = f"{task.score.direction} {task.score.metric}"
    if campaign := os.environ.get(contract.CAMPAIGN_VARIABLE):
        tags[contract.CAMPAIGN] = campaign
    return Identity(task.name, task.run_name(config), key, config, sources, tags)


def _is_consequence(error: Exception) -> bool:
    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in _COLLECTIVE_MARKS)


def _one_line(record: Record) -> str:
    values = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    return f"step {record.step}  {values}"


def _description(identity: Identity, metrics: Mapping[str, float]) -> str:
    """What was run, on what and with which result, in one paragraph."""
    data = "; ".join(
        f"{source.context}: {source.name} ({', '.join(f'{k} {v}' for k, v in source.profile.items())})"
        for source in identity.sources
    )
    score = scores.told([identity.tags.get(contract.SCORE)])
    names = scores.headline(sorted(metrics), score)[:_MOST_RESULTS]
    results = ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
    device = identity.tags.get(contract.DEVICE, "an unknown device")
    parts = [f"Task `{identity.task}`, {identity.name}, on {device}."]
    parts += [f"Data: {data}."] if data else []
    parts += [f"Result: {results}."] if results else []
    return " ".join(parts)

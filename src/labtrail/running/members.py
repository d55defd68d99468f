"""Runs that one process works on side by side, each with its own run and its own checkpoint."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator

from labtrail import contract
from labtrail.errors import ClaimError
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.claim import Claim, Identity, claim
from labtrail.running.execute import conclude, identify, keep
from labtrail.running.record import Record
from labtrail.running.task import Task
from labtrail.running.writer import Run, Status
from labtrail.store import connection

_log = logging.getLogger("labtrail")


@dataclass
class Member:
    """One of the runs.

    Attributes:
        config: what it runs with.
        identity: of its work.
        run: it writes into this.
        checkpoint: its training state.
        claim: holds the lock that keeps other processes from the run.
        metrics: the last value of each.
        open: whether it has not ended.
    """

    config: Any
    identity: Identity
    run: Run
    checkpoint: Checkpoint
    claim: Claim
    metrics: dict[str, float] = field(default_factory=dict)
    open: bool = True


class Members:
    """The members of a bundle: those whose work is not done, claimed and started."""

    def __init__(
        self, task: Task[Any], configs: Sequence[Any], accelerator: Accelerator, tags: Mapping[str, str]
    ) -> None:
        """
        Args:
            task: that each of them runs.
            configs: one for each member, resolved.
            accelerator: shared by all.
            tags: further tags of their runs.

        Raises:
            ClaimError: another process is doing the work of one of them.
        """
        self._accelerator = accelerator
        self._task = task
        self._began = time.perf_counter()
        self.finished: list[str] = []
        self.at_work: list[Member] = []
        try:
            self._claim_all(configs, tags)
        except BaseException as error:
            self.close("KILLED", f"{type(error).__name__}: {error}")
            raise

    def _claim_all(self, configs: Sequence[Any], tags: Mapping[str, str]) -> None:
        task, accelerator = self._task, self._accelerator
        experiment = connection.initialise([task.experiment_name])[task.experiment_name]
        for config in configs:
            identity = identify(task, config, tuple(task.sources(config)), accelerator, tags)
            own = claim(connection.current_store(), identity, experiment, again=False)
            if own.state == "busy":
                raise ClaimError(f"run {own.run_id} ({identity.name}) is at work in another process; wait for its end")
            if own.state == "finished":
                self.finished.append(own.run_id)
            else:
                self.at_work.append(self._started(config, identity, own))

    def _started(self, config: Any, identity: Identity, own: Claim) -> Member:
        run = Run(own.run_id)
        run.start(identity)
        run.download(contract.CHECKPOINTS)
        checkpoint = Checkpoint(
            run.folder / contract.CHECKPOINTS,
            self._accelerator,
            score=self._task.score,
            config=config.model_dump(mode="json"),
            upload=run.upload if run.remote else None,
            run_id=own.run_id,
        )
        return Member(config, identity, run, checkpoint, own)

    def take(self, number: int, record: Record) -> None:
        """Logs a member's record and saves the state that it leaves; its seconds are those since the last record."""
        member = self.at_work[number]
        now = time.perf_counter()
        keep(record, member.run, member.checkpoint, self._accelerator, now - self._began)
        self._began = now
        member.metrics |= record.metrics

    def finish(self, number: int) -> None:
        """Ends a member that has done its work."""
        member = self.at_work[number]
        member.checkpoint.finish()
        conclude(member.run, member.identity, member.metrics)
        self._end(member, "FINISHED", "")

    def close(self, status: Status, reason: str) -> None:
        """Ends every member that is still open; the first words on its end count."""
        for member in self.at_work:
            if member.open:
                try:
                    member.checkpoint.flush()
                except Exception as error:
                    _log.error("while ending: %s: %s", type(error).__name__, error)
                self._end(member, status, reason)

    def _end(self, member: Member, status: Status, reason: str) -> None:
        member.run.end(status, reason)
        member.open = False
        if member.claim.lock is not None:
            member.claim.lock.release()
        _log.info("run %s (%s) %s%s", member.run.run_id, member.identity.name, status, f": {reason}" if reason else "")

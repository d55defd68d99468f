"""Runs that one process works on side by side, each with its own session."""

import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Generic

from accelerate import Accelerator

from labtrail.config import ConfigT
from labtrail.errors import ClaimError
from labtrail.record import Record
from labtrail.running.claim import Claim, claim, open_member_beside
from labtrail.running.identity import Identity, identify
from labtrail.running.session import Session
from labtrail.running.task import Task
from labtrail.running.work import Work
from labtrail.running.writer import Status
from labtrail.store import connection, contract

_log = logging.getLogger("labtrail")


class Members(Generic[ConfigT]):
    """The members of a bundle: those whose work is not done, claimed and begun.

    Attributes:
        at_work: sessions of those that are worked on.
        finished: ids of the runs that had done their work before.
    """

    def __init__(
        self, task: Task[ConfigT], configs: Sequence[ConfigT], accelerator: Accelerator, tags: Mapping[str, str]
    ) -> None:
        """
        Args:
            task: that each of them runs.
            configs: one for each member, resolved.
            accelerator: shared by all.
            tags: further tags of their runs.

        Raises:
            ClaimError: another process is doing the work of one of them.
            Superseded: a later attempt at one of them has begun.
        """
        self.finished: list[str] = []
        self.at_work: list[Session[ConfigT]] = []
        self._task, self._accelerator = task, accelerator
        self._claims: dict[str, Claim] = {}
        self._began = time.perf_counter()
        try:
            self._claim_all(configs, tags)
        except BaseException as error:
            self.close("KILLED", f"{type(error).__name__}: {error}")
            raise

    def _claim_all(self, configs: Sequence[ConfigT], tags: Mapping[str, str]) -> None:
        task, accelerator = self._task, self._accelerator
        experiment = connection.initialise([task.experiment_name])[task.experiment_name]
        for config in configs:
            work = Work(task, config, tuple(task.sources(config)))
            identity = identify(work, accelerator, tags)
            claimed = self._claimed(identity, experiment)
            if claimed.state == "busy":
                raise ClaimError(
                    f"run {claimed.run_id} ({identity.name}) is at work in another process; wait for its end"
                )
            if claimed.state == "finished":
                self.finished.append(claimed.run_id)
            else:
                self._begin(config, identity, claimed)

    @staticmethod
    def _claimed(identity: Identity, experiment: str) -> Claim:
        if contract.REPRODUCES_VARIABLE in os.environ:
            return open_member_beside(connection.current_store(), identity, experiment)
        return claim(connection.current_store(), identity, experiment, again=False)

    def _begin(self, config: ConfigT, identity: Identity, claimed: Claim) -> None:
        self._claims[claimed.run_id] = claimed
        session = Session(self._task, config, identity, claimed.run_id, self._accelerator, uuid.uuid4().hex)
        # One process runs from one source: it is taken for the first of them.
        alike = [other.source for other in self.at_work if other.identity.code.digest == identity.code.digest]
        self.at_work.append(session)
        session.begin(alike[0] if alike else None)

    def log_record(self, number: int, record: Record) -> None:
        """Logs a member's record and saves the state that it leaves; its seconds are those since the last record."""
        now = time.perf_counter()
        self.at_work[number].log_and_checkpoint(record, now - self._began)
        self._began = now

    def finish(self, number: int) -> None:
        """Ends a member that has done its work."""
        session = self.at_work[number]
        session.finish()
        session.write_summary()
        self._end(session, "FINISHED", "")

    def close(self, status: Status, reason: str) -> None:
        """Ends every member that is still open; the first words on its end count."""
        for session in self.at_work:
            if session.run_id in self._claims:
                session.flush()
                self._end(session, status, reason)

    def _end(self, session: Session[ConfigT], status: Status, reason: str) -> None:
        session.end(status, reason)
        claimed = self._claims.pop(session.run_id)
        if claimed.lock is not None:
            claimed.lock.release()

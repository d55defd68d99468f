"""A piece of work: a task with a resolved config and the data it reads; known before torch and MLflow are loaded.

Why: docs/decisions/005-processes-in-the-key.md
     docs/decisions/047-done-is-answered-first.md
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from labtrail import contract
from labtrail.config import ConfigT, fingerprint
from labtrail.query.database import open_database
from labtrail.query.selection import Selection
from labtrail.record import DataSource
from labtrail.running.task import Task
from labtrail.store.address import tracking_uri

ALREADY_DONE = "already done: run %s has finished this work; --again runs it again"


@dataclass(frozen=True)
class Work(Generic[ConfigT]):
    """What is to be run.

    Attributes:
        task: whose work it is.
        config: with names of other runs resolved to ids.
        sources: the data sets it reads.
    """

    task: Task[ConfigT]
    config: ConfigT
    sources: Sequence[DataSource]

    def key(self, processes: int) -> str:
        """The identity of the work: the same task, config, data and number of processes give the same results."""
        digests = [(source.context, source.digest) for source in self.sources]
        return fingerprint(self.task.name, self.config, digests, processes)


def work_of(task: Task[ConfigT], config: ConfigT) -> Work[ConfigT]:
    """The work that a config asks for; reads the data, and runs that the config names.

    Raises:
        ConfigError, DataError: what is named is not there.
    """
    resolved = task.resolve(config)
    return Work(task, resolved, tuple(task.sources(resolved)))


def finished_run(key: str) -> str | None:
    """Id of the newest run that has finished this work; None if there is none, or only MLflow can tell.

    Reads the store's tables, which takes a tenth of the time in which MLflow is imported.
    """
    database = open_database(tracking_uri())
    if database is None:
        return None
    runs = database.runs(Selection(tags={contract.KEY: key}))
    finished = [run.run_id for run in runs if run.end == "FINISHED" and contract.SAME_AS not in run.tags]
    return finished[-1] if finished else None

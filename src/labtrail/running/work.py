"""A piece of work: a task with a resolved config and the data it reads; known before torch and MLflow are loaded.

Why: docs/decisions/005-processes-in-the-key.md
     docs/decisions/047-done-is-answered-first.md
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple

from pydantic import BaseModel

from labtrail.config import ConfigT, fingerprint
from labtrail.query.database import open_database
from labtrail.query.selection import Selection
from labtrail.record import DataSource
from labtrail.running.provenance import pins
from labtrail.running.provenance.code import CodeDigest, code_of
from labtrail.running.provenance.tree import GitError, top_of, tree_of
from labtrail.running.task import Task
from labtrail.store import contract, lab
from labtrail.store.address import tracking_uri

ALREADY_DONE = "already done: run %s has finished this work%s; --again runs it again"


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

    @cached_property
    def code(self) -> CodeDigest:
        """The code that decides the numbers; no part of the key, for a changed function may change none of them."""
        return present_code(self.task, [self.config])

    def key(self, processes: int) -> str:
        """The identity of the work: the same task, config, data and number of processes give the same results."""
        digests = [(source.context, source.digest) for source in self.sources]
        return fingerprint(self.task.name, self.config, digests, processes)


def present_code(task: Task[Any], configs: Iterable[BaseModel]) -> CodeDigest:
    """The code that decides the numbers of a task under some configs, as it stands in this process's files."""
    parts = (task.function, task.config, task.sources, task.resolve)
    return code_of(parts, configs, lab.state_folder() / "cache" / f"code-{task.name}.json")


def work_of(task: Task[ConfigT], config: ConfigT) -> Work[ConfigT]:
    """The work that a config asks for; reads the data, and runs that the config names.

    Raises:
        ConfigError, DataError: what is named is not there.
    """
    resolved = task.resolve(config)
    return Work(task, resolved, tuple(task.sources(resolved)))


class Finished(NamedTuple):
    """A run that has done a piece of work, and what is to be said of its code."""

    run_id: str
    remark: str


def finished_run(work: Work[Any], processes: int) -> Finished | None:
    """The newest run that has finished this work; None if there is none, or only MLflow can tell.

    Reads the store's tables, which takes a tenth of the time in which MLflow is imported. A run of other code is for
    the claim to judge.
    """
    database = open_database(tracking_uri())
    if database is None:
        return None
    runs = database.runs(Selection(tags={contract.KEY: work.key(processes)}))
    finished = [run for run in runs if run.end == "FINISHED" and contract.SAME_AS not in run.tags]
    if not finished:
        return None
    # Of several, one of the present code is the answer.
    run = next((run for run in reversed(finished) if run.tags.get(contract.CODE) == work.code.digest), finished[-1])
    code = run.tags.get(contract.CODE, "")
    return Finished(run.run_id, remark_on(run.tags)) if code in ("", work.code.digest) else None


def remark_on(tags: Mapping[str, str]) -> str:
    """What is said of a finished run beside its id: nothing where all its code is known to be the present one."""
    if not tags.get(contract.CODE):
        return " (by which code is unknown: it was made before labtrail kept that)"
    top = top_of(lab.working_folder()) if contract.TREE in tags and pins.current() is None else None
    try:
        differs = top is not None and tree_of(top, keep=False).tree != tags[contract.TREE]
    except GitError:
        differs = False
    return " (the code differs, but nothing that this task reaches)" if differs else ""

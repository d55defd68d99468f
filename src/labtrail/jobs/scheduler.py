"""Where the processes of a campaign or study run: the interface, and what a job is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from labtrail.store import contract

_RUN_VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
_LONGEST_LINE = 300


@dataclass(frozen=True)
class Job:
    """One command of a campaign.

    Attributes:
        name: identity of the job, unique in the campaign and the same in every attempt.
        command: program and arguments; never read by a shell.
        variables: added to the environment.
        log: file that gets what the command prints; earlier attempts stay in it.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    log: Path


def child_environment() -> dict[str, str]:
    """The environment of a process that opens a run of its own and ends with this one."""
    variables = {name: value for name, value in os.environ.items() if name not in _RUN_VARIABLES}
    return variables | {contract.PARENT_PROCESS_VARIABLE: str(os.getpid())}


class Scheduler(Protocol):
    """What a campaign needs of the place where its jobs run."""

    def free(self) -> int:
        """How many more jobs may be submitted now."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job, or puts it into the queue."""
        ...

    def ended(self) -> dict[str, int]:
        """Exit statuses by name of the jobs that have ended since the last call."""
        ...

    def names(self) -> set[str]:
        """Jobs whose end has not been told."""
        ...

    def close(self) -> None:
        """Asks what still runs to end, and waits."""
        ...


def last_line(log: Path) -> str:
    """The last words of a job."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][:_LONGEST_LINE] if lines else "it printed nothing"

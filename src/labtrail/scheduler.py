"""Where the jobs of a campaign run: a small interface, and this machine as its first answer."""

import logging
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_log = logging.getLogger("labtrail")

_RUN_VARIABLES = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
# Names the process that started a job, and with which it ends.
CHILD = "LABTRAIL_CHILD"
# Below the ten seconds after which a process that was signalled gives up on itself.
_PATIENCE_S = 7.0
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
    own = {name: value for name, value in os.environ.items() if name not in _RUN_VARIABLES}
    return own | {CHILD: str(os.getpid())}


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


class Local:
    """Processes of this machine, as many at once as there are slots."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def free(self) -> int:
        """Slots without a process."""
        return self._slots - len(self._running)

    def submit(self, job: Job) -> None:
        """Starts the job; it ends with this process."""
        environment = child_environment() | dict(job.variables)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self._running[job.name] = subprocess.Popen(
                job.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def ended(self) -> dict[str, int]:
        """Exit statuses of the processes that have ended since the last call."""
        statuses = {name: process.poll() for name, process in self._running.items()}
        found = {name: status for name, status in statuses.items() if status is not None}
        for name in found:
            del self._running[name]
        return found

    def names(self) -> set[str]:
        """Jobs whose end has not been told."""
        return set(self._running)

    def close(self) -> None:
        """Terminates what still runs; each job closes its run and keeps its checkpoint."""
        for process in self._running.values():
            process.terminate()
        # One deadline for all: whoever closes may itself have been given only seconds to end.
        deadline = time.monotonic() + _PATIENCE_S
        for name, process in self._running.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.warning("job %s does not end; killing it", name)
                process.kill()
                process.wait()
        self._running.clear()


def last_line(log: Path) -> str:
    """The last words of a job."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1][:_LONGEST_LINE] if lines else "it printed nothing"

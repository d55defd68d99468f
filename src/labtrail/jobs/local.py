"""Processes on the machine where a campaign or study was started."""

import logging
import subprocess
import sys
import time
from pathlib import Path

from labtrail.jobs.preloaded import Forked, Preloaded
from labtrail.jobs.scheduler import Job, child_environment
from labtrail.store.contract import PARENT_PROCESS_VARIABLE

_log = logging.getLogger("labtrail")

# Below the ten seconds after which a process that was signalled gives up on itself.
_PATIENCE_S = 7.0


class Local:
    """Processes of this machine, as many at once as there are slots.

    Commands of the form ``python -m MODULE`` are forked from a process that has loaded what tasks need (on Linux); any
    other is started as it is.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: dict[str, subprocess.Popen[bytes] | Forked] = {}
        self._preloaded: Preloaded | None = None

    def free(self) -> int:
        """Slots without a process."""
        return self._slots - len(self._running)

    def submit(self, job: Job) -> None:
        """Starts the job; it ends with this process."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            self._running[job.name] = self._started(job, log.fileno())

    def _started(self, job: Job, log: int) -> "subprocess.Popen[bytes] | Forked":
        environment = child_environment() | dict(job.variables)
        program, *words = job.command
        if sys.platform.startswith("linux") and program == sys.executable and words[:1] == ["-m"]:
            preloaded = self._preloaded = self._alive_or_new()
            environment[PARENT_PROCESS_VARIABLE] = str(preloaded.pid)
            return preloaded.start(words[1:], folder=Path.cwd(), environment=environment, stdout=log, stderr=log)
        return subprocess.Popen(
            job.command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )

    def _alive_or_new(self) -> Preloaded:
        if self._preloaded is not None and self._preloaded.alive:
            return self._preloaded
        if self._preloaded is not None:
            self._preloaded.close()
        return Preloaded()

    def ended(self) -> dict[str, int]:
        """Exit statuses of the processes that have ended since the last call."""
        statuses = {name: process.poll() for name, process in self._running.items()}
        ended = {name: status for name, status in statuses.items() if status is not None}
        for name in ended:
            del self._running[name]
        return ended

    def names(self) -> set[str]:
        """Jobs whose end has not been reported."""
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
        if self._preloaded is not None:
            self._preloaded.close()
            self._preloaded = None

"""Processes on the machine where a campaign or study was started."""

import logging
import subprocess
import time

from labtrail.jobs.scheduler import Job, child_environment

_log = logging.getLogger("labtrail")

# Below the ten seconds after which a process that was signalled gives up on itself.
_PATIENCE_S = 7.0


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

"""A batch scheduler as the place where processes run."""

import logging
from dataclasses import dataclass
from pathlib import Path

from labtrail.config import load_json
from labtrail.errors import ConfigError
from labtrail.jobs.backends import LOCAL, NAMES, queue_named
from labtrail.jobs.queue import Queue, QueueError
from labtrail.jobs.scheduler import Job
from labtrail.jobs.script import BatchConfig, check, write_script
from labtrail.store import connection, contract, lab

_log = logging.getLogger("labtrail")

_UNKNOWN_STATUS = 1


@dataclass(frozen=True)
class Batch:
    """Where jobs go.

    Attributes:
        queue: the scheduler.
        config: how jobs run on it.
    """

    queue: Queue
    config: BatchConfig

    @property
    def variables(self) -> dict[str, str]:
        """What every job is told: the store, and the resources that were asked for."""
        return {
            contract.RESOURCES_VARIABLE: self.config.described,
            "MLFLOW_TRACKING_URI": connection.tracking_uri(),
        }

    def script(self, job: Job) -> Path:
        """Writes a job's script; it runs in this working folder."""
        return write_script(job, lab.working_folder(), self.config, self.queue, lab.state_folder())


def batch_named(backend: str, path: Path | None) -> Batch | None:
    """What ``--backend`` and ``--backend-config`` ask for; None for this machine.

    Raises:
        ConfigError: one of them without the other, or a config that is not valid.
    """
    if backend == LOCAL:
        if path is not None:
            raise ConfigError([f"--backend-config {path}: name the scheduler with --backend ({', '.join(NAMES)})"])
        return None
    if path is None:
        raise ConfigError([f"--backend {backend}: --backend-config is missing; name a file such as slurm/cpu.json"])
    config = load_json(BatchConfig, path)
    return Batch(queue_named(backend, config.timeout_s), config)


class Jobs:
    """Jobs of a queue, as many at once as there are slots, behind the interface of ``Scheduler``."""

    def __init__(self, batch: Batch, slots: int, prefix: str) -> None:
        """
        Args:
            batch: where they go.
            slots: jobs at once.
            prefix: what makes their names unique.
        """
        self._batch, self._slots, self._prefix = batch, slots, prefix
        self._names: dict[str, str] = {}

    def free(self) -> int:
        """Slots without a job."""
        return self._slots - len(self._names)

    def submit(self, job: Job) -> None:
        """Submits a job, or takes over one of its name that an earlier process has left.

        Raises:
            ConfigError, SubmitError, QueueError: see ``Queue.submit``.
        """
        name = f"{self._prefix}-{job.name}"
        check(self._batch.config, self._batch.queue, [name])
        if name not in self._batch.queue.alive([name]):
            named_job = Job(name, job.command, {**self._batch.variables, **job.variables}, job.log)
            self._batch.queue.submit(self._batch.script(named_job), name, job.log.absolute())
        self._names[job.name] = name

    def ended(self) -> dict[str, int]:
        """Jobs that are gone; how they ended, no scheduler tells for long. Nothing while it is silent."""
        try:
            alive = self._batch.queue.alive(list(self._names.values()))
        except QueueError as error:
            _log.warning("%s", error)
            return {}
        gone = [name for name, full in self._names.items() if full not in alive]
        for name in gone:
            del self._names[name]
        return dict.fromkeys(gone, _UNKNOWN_STATUS)

    def names(self) -> set[str]:
        """Jobs whose end has not been told."""
        return set(self._names)

    def close(self) -> None:
        """Cancels what is left, as far as the scheduler answers."""
        try:
            alive = self._batch.queue.alive(list(self._names.values()))
            self._batch.queue.cancel([value.job_id for value in alive.values()])
        except QueueError as error:
            _log.warning("%s", error)
        self._names.clear()

"""MLflow project back ends ``slurm`` and ``pbs``: ``mlflow run . -e ENTRY --backend slurm --backend-config FILE``.

MLflow finds them as plugins. The run is opened first and the job named by it; the command is handed over as a list of
words, which no shell reads.
"""

import logging
import re
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import (
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
    fetch_and_validate_project,
    get_or_create_run,
    get_run_env_vars,
    load_project,
)

from labtrail.config import validated
from labtrail.errors import LabtrailError
from labtrail.jobs.backends import queue_named
from labtrail.jobs.queue import Queue, QueueError, SubmitError
from labtrail.jobs.queues import Batch
from labtrail.jobs.scheduler import Job
from labtrail.jobs.script import BatchConfig, check, write_script
from labtrail.running.run_status import mark_killed, set_tags
from labtrail.store import connection, contract, lab, locks

_log = logging.getLogger("labtrail")

# What MLflow adds to every backend config.
_FOREIGN = {
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
}
_PLACE = re.compile(r"\{(\w+)\}")
_OPEN = (RunStatus.RUNNING, RunStatus.SCHEDULED)


def slurm() -> "BatchBackend":
    """Jobs of Slurm."""
    return BatchBackend("slurm")


def pbs() -> "BatchBackend":
    """Jobs of PBS."""
    return BatchBackend("pbs")


class BatchBackend(AbstractBackend):
    """Submits an entry point as a job."""

    def __init__(self, scheduler: str) -> None:
        self._scheduler = scheduler

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: dict[str, Any],
        version: str | None,
        backend_config: dict[str, Any],
        tracking_uri: str,  # noqa: ARG002 the store is in the environment
        experiment_id: str,
    ) -> "BatchRun":
        """Opens a run, submits its job and returns at once.

        Raises:
            ExecutionException: a config, template or folder that cannot be used, or what the scheduler refuses; says
                what to change. Nothing was submitted, unless the scheduler fell silent: then its run stays SCHEDULED.
        """
        try:
            return self._submitted(project_uri, entry_point, params, version, backend_config, experiment_id)
        except LabtrailError as error:
            raise ExecutionException(str(error)) from None

    def _submitted(
        self,
        uri: str,
        entry_point: str,
        params: dict[str, Any],
        version: str | None,
        backend_config: dict[str, Any],
        experiment_id: str,
    ) -> "BatchRun":
        values = {key: value for key, value in backend_config.items() if key not in _FOREIGN}
        config = validated(BatchConfig, values, Path(f"{self._scheduler} backend config"))
        queue = queue_named(self._scheduler, config.timeout_s)
        folder = Path(fetch_and_validate_project(uri, version, entry_point, params))
        words = words_of(load_project(str(folder)).get_entry_point(entry_point), params)
        # As long as a real name, so that what is refused for its length is refused now.
        check(config, queue, [f"{entry_point}-{'0' * 32}"])
        state, log = lab.state_folder(), config.logs / f"{entry_point}.log"
        queue.check(write_script(Job(f"check-{entry_point}", words, {}, log), folder, config, queue, state))
        run_id = get_or_create_run(None, uri, experiment_id, str(folder), version, entry_point, params).info.run_id
        name = f"{entry_point}-{run_id}"
        variables = get_run_env_vars(run_id, experiment_id) | Batch(queue, config).variables
        variables[contract.TOKEN_VARIABLE] = "1"
        job = Job(name, words, variables, config.logs / f"{name}.log")
        client = connection.current_store()
        client.update_run(run_id, status="SCHEDULED")
        set_tags(
            run_id,
            {contract.SCHEDULER: queue.name, contract.JOB_NAME: name, contract.SUBMISSIONS: "1"} | locks.whereabouts(),
        )
        try:
            job_id = queue.submit(write_script(job, folder, config, queue, state), name, job.log.absolute())
        except SubmitError as error:
            mark_killed(run_id, str(error))
            raise
        set_tags(run_id, {contract.JOB_ID: job_id})
        return BatchRun(run_id, name, queue, config.poll_s)


def words_of(entry_point: Any, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The command of an entry point as words: its own are split as a shell would, values are never split.

    Args:
        entry_point: of an MLproject file; one program with arguments.
        params: values that were asked for; those that it does not declare become ``--key value``.
    """
    declared = entry_point.parameters
    values = {name: str(params.get(name, parameter.default)) for name, parameter in declared.items()}
    extra = {name: str(value) for name, value in params.items() if name not in declared}
    words = [_PLACE.sub(lambda place: values[place[1]], word) for word in shlex.split(entry_point.command)]
    return (*words, *(part for name, value in extra.items() for part in (f"--{name}", value)))


class BatchRun(SubmittedRun):
    """A run whose job is in the queue, or has left it."""

    def __init__(self, run_id: str, name: str, queue: Queue, poll_s: float) -> None:
        self._run_id, self._name, self._queue, self._poll_s = run_id, name, queue, poll_s
        self._client: MlflowClient = connection.current_store()

    @property
    def run_id(self) -> str:
        """Of the MLflow run."""
        return self._run_id

    def wait(self) -> bool:
        """Waits until the job is gone; whether the run is FINISHED. A silent scheduler is asked again."""
        while self._may_be_alive():
            time.sleep(self._poll_s)
        mark_killed(self._run_id, "its job ended without a word")
        return self.get_status() == RunStatus.FINISHED

    def _may_be_alive(self) -> bool:
        try:
            return self._name in self._queue.alive([self._name])
        except QueueError as error:
            _log.warning("%s", error)
            return True

    def get_status(self) -> int:
        """The run's status; a job that is gone without having ended its run has FAILED."""
        alive = self._may_be_alive()
        run = self._client.get_run(self._run_id)
        status = RunStatus.from_string(contract.end_of(run.data.tags, run.info.status))
        return RunStatus.FAILED if status in _OPEN and not alive else status

    def cancel(self) -> None:
        """Takes the job out of the queue, or ends it."""
        queued = self._queue.alive([self._name]).get(self._name)
        if queued is not None:
            self._queue.cancel([queued.job_id])
            if not queued.running:
                mark_killed(self._run_id, "cancelled before its job began")

"""A study on this machine or a scheduler: workers that ask Optuna for trials, watched by one process."""

import logging
import sys
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from labtrail.config import to_yaml
from labtrail.errors import LabtrailError
from labtrail.files import sha256_of, write_atomically
from labtrail.jobs.local import Local
from labtrail.jobs.queue import QueueError
from labtrail.jobs.queues import Batch, Jobs
from labtrail.jobs.scheduler import Job, Scheduler, last_line
from labtrail.record import DataSource, Record
from labtrail.running.run import Run
from labtrail.running.task import Task
from labtrail.store import contract
from labtrail.sweeps.round_code import Pin
from labtrail.sweeps.study import (
    Study,
    StudyConfig,
    ended_trials,
    folder_of,
    open_study,
    outcome_files,
    wants_more,
)

_log = logging.getLogger("labtrail")

_POLL_S = 0.5
# For each worker, so many that end badly are replaced.
_ATTEMPTS = 3


def study_task(
    task: Task[Any], path: Path, workers: int, batch: Batch | None, pin: Pin | None = None
) -> Task[StudyConfig]:
    """A study as a task, which is claimed like any other.

    Args:
        task: that its trials run.
        path: file of the study.
        workers: trials at once.
        batch: where the workers are jobs; None: on this machine.
        pin: the code that they run from; None: the lab's files.
    """
    variables = pin.variables if pin else {}
    return Task(
        name="study",
        config=StudyConfig,
        function=lambda config, run: _search(config, run, task, workers, batch, variables),
        default=path,
        sources=lambda config: [DataSource(config.config.name, "base", str(config.config), sha256_of(config.config))],
        title=lambda config: f"study-{config.name}",
        experiment=task.experiment_name,
        one_process=True,
    )


def _search(
    config: StudyConfig, run: Run, task: Task[Any], workers: int, batch: Batch | None, variables: Mapping[str, str]
) -> Generator[Record]:
    """A Record whenever trials have ended, and a last one with tables, plots and the best config."""
    study = open_study(config)
    folder = folder_of(config)
    write_atomically(folder / "config.yaml", to_yaml(config).encode())
    scheduler = Local(workers) if batch is None else Jobs(batch, workers, config.full_name)
    team = _Team(scheduler, workers, folder, run.id, variables)
    shown = -1
    bar = tqdm(total=config.trials, desc="trials", unit="trial", disable=None)
    try:
        team.start()
        while shown < config.trials:
            done = ended_trials(study)
            if done == shown:
                team.replace_lost(lambda: wants_more(study, config))
                time.sleep(_POLL_S if batch is None else batch.config.poll_s)
                continue
            bar.update(done - max(shown, 0))
            shown, team.lost = done, 0
            yield Record(done, _metrics(study, done))
    finally:
        bar.close()
        scheduler.close()
    if not any(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False)):
        raise LabtrailError(f"every one of {shown} trials failed; see {folder}")
    yield Record(shown + 1, _metrics(study, shown), outcome_files(study, config, task))


class _Team:
    """The workers of a study, each a process or a job; those that end badly are replaced.

    Attributes:
        lost: how many have ended so since a trial ended last.
    """

    def __init__(
        self, scheduler: Scheduler, count: int, folder: Path, parent: str, variables: Mapping[str, str]
    ) -> None:
        """
        Args:
            scheduler: where they run.
            count: how many there are.
            folder: of the study's config and of their logs.
            parent: id of the study's run.
            variables: of their processes.
        """
        self.lost = 0
        self._scheduler, self._count, self._folder, self._parent = scheduler, count, folder, parent
        self._variables = variables
        self._waiting = [f"worker-{number}" for number in range(count)]

    def start(self) -> None:
        """Starts those that wait; a scheduler that does not answer is asked again by the next call."""
        for name in list(self._waiting):
            try:
                self._submit(name)
            except QueueError as error:
                _log.warning("%s", error)
            else:
                self._waiting.remove(name)

    def _submit(self, name: str) -> None:
        command = (
            sys.executable,
            "-m",
            "labtrail.console",
            "study",
            "run",
            "--config",
            str(self._folder / "config.yaml"),
        )
        options = ("--worker", name.removeprefix("worker-"), "--parent", self._parent, "--study", self._folder.name)
        self._scheduler.submit(Job(name, (*command, *options), self._variables, self._log_of(name)))

    def _log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def replace_lost(self, more: Callable[[], bool]) -> None:
        """Looks who has ended, and starts others in their place.

        Args:
            more: tells whether the study wants trials that nobody has begun.

        Raises:
            LabtrailError: no trial can begin, or workers end again and again.
        """
        for name, status in self._scheduler.ended().items():
            if status == contract.REFUSED:
                raise LabtrailError(f"no trial can begin: {last_line(self._log_of(name))}")
            # One that ends well leaves the rest to the others, as long as there are others.
            if (status != 0 and more()) or not (self._scheduler.names() or self._waiting):
                self.lost += 1
                if self.lost > _ATTEMPTS * self._count:
                    raise LabtrailError(
                        f"workers do not last: {self.lost} have ended since the last trial; see {self._folder}"
                    )
                self._waiting.append(name)
        self.start()


def _metrics(study: Study, done: int) -> dict[str, float]:
    metrics = {"study/trials": float(done)}
    if any(trial.value is not None and trial.state.name == "COMPLETE" for trial in study.get_trials(deepcopy=False)):
        metrics["study/best"] = float(study.best_value)
    return metrics

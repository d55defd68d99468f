"""``python -m projects.study``: a search by Optuna, each trial a run of its own below the study's."""

import logging
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from accelerate import Accelerator
from tqdm import tqdm

from labtrail.config import TaskConfig, load_config, to_yaml
from labtrail.errors import ConfigError, LabtrailError
from labtrail.files import sha256_of, write_atomically
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.cli import command_line, overrides_of
from labtrail.running.launch import require_one_process
from labtrail.running.record import DataSource, Record
from labtrail.running.task import Task
from projects.tasks import task_named

if TYPE_CHECKING:
    from labtrail.jobs.queues import Batch
    from labtrail.jobs.scheduler import Scheduler

_log = logging.getLogger("labtrail")

_POLL_S = 0.5
# For each worker, so many that end badly are replaced.
_ATTEMPTS = 3
# Exit status of a worker that no other values would help.
_REFUSED = 2


@click.command(
    name="python -m projects.study",
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "help_option_names": ["-h", "--help"],
    },
)
@click.option("--config", "path", type=Path, required=True, help="YAML file of a study.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trials at once.")
@click.option("--backend", type=click.Choice(["local", "slurm", "pbs"]), default="local", show_default=True,
              help="Where trials run: here, or in jobs of a scheduler, one for each worker.")  # fmt: skip
@click.option("--backend-config", type=Path, help="JSON file of the jobs' resources, such as slurm/gpu.json.")
@click.option("--again", type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]",
              help="Run a study that has finished once more; its trials stay.")  # fmt: skip
@click.option("--worker", type=int, hidden=True)
@click.option("--parent", default="", hidden=True)
@click.pass_context
def main(
    context: click.Context, path: Path, workers: int, backend: str, backend_config: Path | None, again: bool,
    worker: int | None, parent: str,
) -> int:  # fmt: skip
    """Searches; safe to repeat and to kill: trials that ended stay, one that lost its worker continues.

    Values of the study's file are overridden by --key value, as for a task.
    """
    from labtrail.jobs.queues import batch_named
    from labtrail.running.execute import Options, execute
    from labtrail.store import connection
    from labtrail.sweeps.study import StudyConfig, trial_config, work

    config = load_config(StudyConfig, path, overrides_of(context.args))
    known = task_named(config.task)
    if config.storage and config.storage == connection.tracking_uri():
        raise ConfigError(
            ["storage: this database is MLflow's; Optuna needs one of its own (both number their schema)"]
        )
    # A base that cannot be read is told here, in one line.
    trial_config(config, known.task, {})
    batch = batch_named(backend, backend_config)
    if worker is not None:
        work(config, known.task, parent, worker)
        return 0
    task = Task(
        name="study",
        config=StudyConfig,
        function=lambda own, accelerator, checkpoint: _search(own, accelerator, checkpoint, known.task, workers, batch),
        default=path,
        sources=lambda own: [DataSource(own.config.name, "base", str(own.config), sha256_of(own.config))],
        title=lambda own: f"study-{own.name}",
        experiment=config.task,
    )
    return execute(task, config, Options(again=again))


def _search(
    config: TaskConfig, accelerator: Accelerator, checkpoint: Checkpoint, task: Task[Any], workers: int,
    batch: "Batch | None",
) -> Generator[Record]:  # fmt: skip
    """A Record whenever trials have ended, and a last one with tables, plots and the best config."""
    from labtrail.jobs.local import Local
    from labtrail.jobs.queues import Jobs
    from labtrail.store import locks
    from labtrail.sweeps.study import StudyConfig, ended_trials, open_study, outcome_files, wants_more

    require_one_process(accelerator, "study")
    assert isinstance(config, StudyConfig)
    study = open_study(config)
    folder = locks.state_folder() / "studies" / config.full_name
    write_atomically(folder / "config.yaml", to_yaml(config).encode())
    scheduler = Local(workers) if batch is None else Jobs(batch, workers, config.full_name)
    team = _Team(scheduler, workers, folder, checkpoint.run_id)
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
    if not any(one.state.name in ("COMPLETE", "PRUNED") for one in study.get_trials(deepcopy=False)):
        raise LabtrailError(f"every one of {shown} trials failed; see {folder}")
    yield Record(shown + 1, _metrics(study, shown), outcome_files(study, config, task))


class _Team:
    """The workers of a study, each a process or a job; those that end badly are replaced.

    Attributes:
        lost: how many have ended so since a trial ended last.
    """

    def __init__(self, scheduler: "Scheduler", count: int, folder: Path, parent: str) -> None:
        """
        Args:
            scheduler: where they run.
            count: how many there are.
            folder: of the study's config and of their logs.
            parent: id of the study's run.
        """
        self.lost = 0
        self._scheduler, self._count, self._folder, self._parent = scheduler, count, folder, parent
        self._waiting = [f"worker-{number}" for number in range(count)]

    def start(self) -> None:
        """Starts those that wait; a scheduler that does not answer is asked again by the next call."""
        from labtrail.jobs.queue import QueueError

        for name in list(self._waiting):
            try:
                self._submit(name)
            except QueueError as error:
                _log.warning("%s", error)
            else:
                self._waiting.remove(name)

    def _submit(self, name: str) -> None:
        from labtrail.jobs.scheduler import Job

        command = (sys.executable, "-m", "projects.study", "--config", str(self._folder / "config.yaml"))
        options = ("--worker", name.removeprefix("worker-"), "--parent", self._parent)
        self._scheduler.submit(Job(name, (*command, *options), {}, self._log_of(name)))

    def _log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def replace_lost(self, more: Callable[[], bool]) -> None:
        """Looks who has ended, and starts others in their place.

        Args:
            more: tells whether the study wants trials that nobody has begun.

        Raises:
            LabtrailError: no trial can begin, or workers end again and again.
        """
        from labtrail.jobs.scheduler import last_line

        for name, status in self._scheduler.ended().items():
            if status == _REFUSED:
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


def _metrics(study: Any, done: int) -> dict[str, float]:
    found = {"study/trials": float(done)}
    if any(one.value is not None and one.state.name == "COMPLETE" for one in study.get_trials(deepcopy=False)):
        found["study/best"] = float(study.best_value)
    return found


if __name__ == "__main__":
    command_line(main)

"""``labtrail study``: a search by Optuna, each trial a run of its own below the study's."""

from pathlib import Path

import click

from labtrail.config import load_config
from labtrail.errors import ConfigError
from labtrail.jobs.backends import LOCAL, NAMES
from labtrail.running.cli import FREE_ARGUMENTS, HELP, LabCommand, LabPath, overrides_of, switch
from labtrail.running.registry import task_named
from labtrail.store import contract


@click.group(name="study", context_settings=HELP, no_args_is_help=True)
def command() -> None:
    """Searches for good values with Optuna."""


@command.command(cls=LabCommand, context_settings=FREE_ARGUMENTS)
@click.option("--config", "path", type=LabPath(), required=True, help="YAML file of a study.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Trials at once.")
@click.option(
    "--backend",
    type=click.Choice([LOCAL, *NAMES]),
    default=LOCAL,
    show_default=True,
    help="Where trials run: here, or in jobs of a scheduler, one for each worker.",
)
@click.option("--backend-config", type=LabPath(), help="JSON file of the jobs' resources, such as slurm/gpu.json.")
@switch("--again", "Run a study that has finished once more; its trials stay.")
@switch("--keep", "Go on with the present code, and count the trials of other code.")
@switch("--pinned", "Go on with the code that the study began with.")
@click.option("--worker", type=int, hidden=True)
@click.option("--parent", default="", hidden=True)
@click.option("--study", "full_name", default="", hidden=True)
@click.pass_context
def run(
    context: click.Context,
    path: Path,
    workers: int,
    backend: str,
    backend_config: Path | None,
    again: bool,
    keep: bool,
    pinned: bool,
    worker: int | None,
    parent: str,
    full_name: str,
) -> int:
    """Searches; safe to repeat and to kill: trials that ended stay, one that lost its worker continues.

    All trials run from one copy of the code, taken when the study begins; where the code has changed since, the command
    asks (exit status 3). Values of the study's file are overridden by --key value, as for a task.
    """
    from labtrail.jobs.queues import batch_named
    from labtrail.running.execute import Options, execute
    from labtrail.store import connection
    from labtrail.sweeps.round_code import Answer, pin_of
    from labtrail.sweeps.search import study_task
    from labtrail.sweeps.study import StudyConfig, folder_of, judge_code, trial_config, work, worker_config

    config = load_config(StudyConfig, path, overrides_of(context.args))
    task = task_named(config.task)
    if config.storage and config.storage == connection.tracking_uri():
        raise ConfigError(
            ["storage: this database is MLflow's; Optuna needs one of its own (both number their schema)"]
        )
    if worker is not None:
        work(worker_config(config, full_name) if full_name else config, task, parent, worker)
        return contract.DONE
    # A base that cannot be read is told here, in one line.
    base = trial_config(config, task, {})
    batch, answer = batch_named(backend, backend_config), Answer(keep=keep, pinned=pinned)
    pin = pin_of(folder_of(config), f"study {config.name}", task, [base], answer, "another name begins anew")
    connection.initialise([task.experiment_name])
    judge_code(config, task, pin, answer)
    search = study_task(task, path, workers, batch, pin)
    return execute(search, config, Options(again=again, tags={contract.CODE: pin.code.digest}))

"""Running a task from Python: a notebook, a script that runs several."""

from pathlib import Path
from typing import Any

from labtrail.config import Config, load_config, text_of
from labtrail.errors import LabtrailError
from labtrail.running.execute import Options, run_task
from labtrail.running.registry import task_named
from labtrail.running.result import Result, result_of, tell_progress
from labtrail.running.task import Task


def run(
    task: Task[Any] | str,
    config: Config | Path | str | None = None,
    *,
    again: bool = False,
    keep: bool = False,
    register: str = "",
    **values: Any,
) -> Result:
    """Runs a task in this process, unless its work has been done; how it ended, and its numbers.

    lt.run("distill", "configs/distill/digits.yaml", **{"train.epochs": 3}).metrics["test/accuracy"]

    Args:
        task: a task, its name in the lab, or its address (``package.module:name``).
        config: a config of the task, or a YAML file of values; None: the task's default.
        again: run again although the work has been done.
        keep: let a run of other code count as done, or continue it.
        register: name in the model registry for the run's best weights; empty: none.
        values: single values of the config, over those of the file.

    Raises:
        LabtrailError: it is refused before it begins, or a person has to decide. What goes wrong in the task itself
            stands in the result.
    """
    tell_progress()
    chosen = task_named(task) if isinstance(task, str) else task
    if isinstance(config, Config):
        if values:
            raise LabtrailError("run: give a config or single values, not both: config.model_copy(update={...})")
        asked: Any = config
    else:
        path = Path(config) if config is not None else chosen.default
        asked = load_config(chosen.config, path, [(key, text_of(value)) for key, value in values.items()])
    outcome = run_task(chosen, asked, Options(again=again, keep=keep, register=register))
    return result_of(outcome.run_id, outcome.status)

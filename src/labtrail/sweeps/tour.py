"""The tour: all projects on embedded data, one run after the other, ending with a table and links."""

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import click
import pandas as pd
from pydantic import Field
from tqdm import tqdm

from labtrail.config import Config, Section, load_config
from labtrail.errors import LabtrailError
from labtrail.jobs.scheduler import child_environment
from labtrail.query.query import Query
from labtrail.record import Record
from labtrail.running.registry import task_named
from labtrail.running.run import Run
from labtrail.running.task import Task
from labtrail.running.work import work_of
from labtrail.store import contract, ui_links

_UI = "http://127.0.0.1:5000"
_PATIENCE_S = 20


class Stop(Section):
    """One run of the tour."""

    project: str
    """folder under projects/"""
    word: str = ""
    """which of its tasks, as on the command line; empty: the first"""
    config: Path
    """its config file"""
    overrides: dict[str, str] = Field(default_factory=dict)
    """dotted key -> value"""
    reads: int | None = Field(default=None, ge=1)
    """number of the stop whose run this one reads, as its `run`; counted from 1"""

    @property
    def task_name(self) -> str:
        """Name of the task of this stop."""
        return f"{self.project}-{self.word}" if self.word else self.project

    @property
    def task(self) -> Task[Any]:
        """The task of this stop."""
        return task_named(self.task_name)


class TourConfig(Config):
    """The stops of the tour, in order."""

    stops: tuple[Stop, ...]
    """what is run"""


def tour(config: TourConfig, _run_of_tour: Run) -> Generator[Record]:
    """Runs every stop as a process of its own and yields its test metrics; the last Record has the table."""
    rows: list[dict[str, Any]] = []
    for index, stop in enumerate(tqdm(config.stops, desc="tour", unit="run", disable=None)):
        overrides = {**stop.overrides, **({"run": rows[stop.reads - 1]["run_id"]} if stop.reads else {})}
        options = [part for key, value in overrides.items() for part in (f"--{key}", value)]
        words = ["run", stop.task_name, "--config", str(stop.config), *options]
        click.echo(f"\n[{index + 1}/{len(config.stops)}] labtrail {' '.join(words)}", err=True)
        if _run([sys.executable, "-m", "labtrail.console", *words]) != 0:
            raise LabtrailError(f"labtrail {' '.join(words)} failed; its own message is above")
        row = _outcome(stop, overrides)
        rows.append(row)
        yield Record(index, {f"test/{name}": row[name] for name in _TEST_METRICS if name in row})
    table = pd.DataFrame(rows)
    click.echo(_closing_words(table))
    yield Record(len(rows), files={"tables/tour.csv": table})


def _run(command: list[str]) -> int:
    """The exit status of a child; when this process is stopped, the child is too, and may close its run."""
    with subprocess.Popen(command, env=child_environment()) as child:
        try:
            return child.wait()
        except BaseException:
            child.terminate()
            child.wait(_PATIENCE_S)
            raise


_TEST_METRICS = (
    "accuracy",
    "accuracy_top5",
    "baseline_1nn",
    "macro_f1",
    "baseline_extratrees_macro_f1",
)


def _outcome(stop: Stop, overrides: dict[str, str]) -> dict[str, Any]:
    """The row of the run that did this work, found by its key."""
    task = stop.task
    work = work_of(task, load_config(task.config, stop.config, list(overrides.items())))
    runs = Query(task.name).tagged({contract.KEY: work.key(processes=1)}).runs()
    run = runs.iloc[-1]
    metrics = {name: run[f"test/{name}"] for name in _TEST_METRICS if f"test/{name}" in run}
    minutes = (run["ended"] - run["started"]).total_seconds() / 60
    facts = {"task": task.name, "run": run["name"], "config": stop.config.name}
    ids = {"run_id": run["run_id"], "experiment_id": run["experiment_id"]}
    return {**facts, **metrics, "minutes": round(minutes, 2), **ids}


def _closing_words(table: pd.DataFrame) -> str:
    runs, experiments = table["run_id"].tolist(), table["experiment_id"].unique().tolist()
    shown = table.drop(columns="experiment_id").to_string(
        index=False, na_rep="", float_format=lambda value: f"{value:.3f}"
    )
    charts = "\n".join(f"  charts    {ui_links.experiment_chart(_UI, experiment)}" for experiment in experiments)
    return (
        "\nResults on embedded data, SYNTHETIC but for the scanned digits of distill. They show that everything\n"
        "works, and nothing about signs or people.\n\n"
        f"{shown}\n\n"
        f"Look at them in the MLflow UI:  make ui   (starts it on {_UI})\n"
        f"{charts}\n  compare   {ui_links.compare(_UI, experiments, runs)}\n"
    )


TASK = Task(name="tour", config=TourConfig, function=tour, default=Path("configs/tour.yaml"), one_process=True)

"""Which runs are meant, and what a store tells of each, whichever way it is read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd

from labtrail import contract


@dataclass(frozen=True)
class Selection:
    """Which runs are meant.

    Attributes:
        tags: names and values that must be equal.
        params: likewise.
        run_ids: exactly these, instead of a search; None: a search.
        statuses: which ends count.
        archived: whether runs of archived rounds are among them.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    run_ids: tuple[str, ...] | None = None
    statuses: tuple[str, ...] = ("FINISHED",)
    archived: bool = False

    def reason_against(self, run: "Found") -> str:
        """Why a run that the store has found is left out; empty if it belongs to the selection."""
        if contract.TASK not in run.tags:
            return "not of labtrail"
        if contract.SAME_AS in run.tags:
            return "points to another run"
        if run.end not in self.statuses:
            return run.end.lower()
        return "archived" if contract.ARCHIVED in run.tags and not self.archived else ""


class Found(NamedTuple):
    """One run as the store has it.

    Attributes:
        run_id, name, status, experiment_id: as MLflow has them.
        started, ended: milliseconds since 1970, UTC; None where the store has none.
        tags, params, metrics: all of them; of a metric the last value.
    """

    run_id: str
    name: str
    status: str
    experiment_id: str
    started: int | None
    ended: int | None
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def end(self) -> str:
        """How it really ended: its own word, if it left one."""
        return contract.end_of(self.tags, self.status)

    def row(self) -> dict[str, Any]:
        """As a row of a frame: id, name, status, times, own tags, ``cfg.*`` params, metrics."""
        return {
            "run_id": self.run_id,
            "name": self.name,
            "status": self.end,
            "experiment_id": self.experiment_id,
            "started": _moment(self.started),
            "ended": _moment(self.ended),
            **{name: value for name, value in self.tags.items() if not name.startswith("mlflow.")},
            **{name: value for name, value in self.params.items() if name.startswith(contract.CONFIG_PREFIX)},
            **self.metrics,
        }


def oldest_first(runs: Iterable[Found]) -> list[Found]:
    """By start, then by id; runs without a start come last."""
    return sorted(runs, key=lambda run: (run.started is None, run.started or 0, run.run_id))


def frame_of(runs: Sequence[Found]) -> pd.DataFrame:
    """A row per run; columns by kind and name."""
    rows = [run.row() for run in runs]
    fixed = [*Found._fields[:4], "started", "ended", contract.TASK]
    tags = sorted({name for run in runs for name in run.tags if not name.startswith("mlflow.")})
    params = sorted({name for run in runs for name in run.params if name.startswith(contract.CONFIG_PREFIX)})
    metrics = sorted({name for run in runs for name in run.metrics})
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*fixed, *tags, *params, *metrics])))


HISTORY = ("run_id", "metric", "step", "value")


def tidy(points: pd.DataFrame, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One value for each step, in the order of runs, metrics and steps.

    Of several points of a step (a crash between log and save repeats one) the last is kept, the larger of two at once.

    Args:
        points: columns run_id, metric, step, timestamp, value, in any order.
        run_ids, metrics: what the points are of; their order is that of the result.
    """
    codes = {name: position for position, name in enumerate(metrics)}
    places = {run_id: position for position, run_id in enumerate(run_ids)}
    ordered = points.assign(_run=points["run_id"].map(places), _metric=points["metric"].map(codes))
    ordered = ordered.sort_values(["_run", "_metric", "step", "timestamp", "value"])
    last = ordered.drop_duplicates(["_run", "_metric", "step"], keep="last")
    kept = last[list(HISTORY)].reset_index(drop=True)
    return kept.astype({"run_id": "str", "metric": "str", "step": "int64", "value": "float64"})


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)

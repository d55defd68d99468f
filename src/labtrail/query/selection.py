"""Which runs are meant, and what a store tells of each, whichever way it is read.

Why: docs/decisions/038-archived-not-gone.md
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from labtrail.store import contract


@dataclass(frozen=True)
class Selection:
    """Which runs are meant.

    Attributes:
        tags: names and values that must be equal.
        params: likewise.
        campaign: round that a run belongs to, by its own tag or because a cell rests on it; empty: any or none.
        run_ids: exactly these, instead of a search; None: a search.
        statuses: which ends count.
        archived: whether runs of archived rounds are among them.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    campaign: str = ""
    run_ids: tuple[str, ...] | None = None
    statuses: tuple[str, ...] = ("FINISHED",)
    archived: bool = False

    def rounds(self) -> Sequence[tuple[str, str]]:
        """Tags of which a run must have one: (name, value; "" is any); empty if all belong."""
        if not self.campaign:
            return ()
        return (contract.CAMPAIGN, self.campaign), (contract.member_of(self.campaign), "")

    def reason_against(self, run: "RunRow") -> str:
        """Why a run that the store has found is left out; empty if it belongs to the selection."""
        if contract.TASK not in run.tags:
            return "not of labtrail"
        if contract.SAME_AS in run.tags:
            return "points to another run"
        if contract.REPRODUCES in run.tags and self.run_ids is None:
            return "repeats another run"
        if run.end not in self.statuses:
            return run.end.lower()
        return "archived" if contract.ARCHIVED in run.tags and not self.archived else ""


class RunRow(NamedTuple):
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


def text_of_tag(run: Mapping[Any, Any] | pd.Series, name: str) -> str:
    """A tag in a row of a frame; empty where the run has none, for which a frame has NaN."""
    value = run.get(name, "")
    return value if isinstance(value, str) else ""


def oldest_first(runs: Iterable[RunRow]) -> list[RunRow]:
    """By start, then by id; runs without a start come last."""
    return sorted(runs, key=lambda run: (run.started is None, run.started or 0, run.run_id))


def frame_of(runs: Sequence[RunRow]) -> pd.DataFrame:
    """A row per run; columns by kind and name."""
    rows = [run.row() for run in runs]
    fixed = [*RunRow._fields[:4], "started", "ended", contract.TASK]
    tags = sorted({name for run in runs for name in run.tags if not name.startswith("mlflow.")})
    params = sorted({name for run in runs for name in run.params if name.startswith(contract.CONFIG_PREFIX)})
    metrics = sorted({name for run in runs for name in run.metrics})
    return pd.DataFrame(rows, columns=list(dict.fromkeys([*fixed, *tags, *params, *metrics])))


class MetricPoints(NamedTuple):
    """Points of metrics, an entry of each array for each.

    Attributes:
        run, metric: int64, positions in the lists of runs and metrics that were asked for.
        step, timestamp: int64.
        value: float64.
    """

    run: np.ndarray
    metric: np.ndarray
    step: np.ndarray
    timestamp: np.ndarray
    value: np.ndarray


def positions(names: Sequence[str]) -> dict[str, int]:
    """Name -> its place in a list."""
    return {name: place for place, name in enumerate(names)}


def points_of(
    rows: Sequence[tuple[str, str, int, int, float | None]], runs: Mapping[str, int], metrics: Mapping[str, int]
) -> MetricPoints:
    """Arrays from rows of run id, metric, step, timestamp and value (None is NaN); names by their positions."""
    count = len(rows)
    run, metric, step, timestamp, value = zip(*rows, strict=True) if rows else ((),) * 5
    return MetricPoints(
        np.fromiter((runs[run_id] for run_id in run), np.int64, count),
        np.fromiter((metrics[name] for name in metric), np.int64, count),
        np.array(step, np.int64),
        np.array(timestamp, np.int64),
        np.array(value, np.float64),
    )


def joined(parts: Sequence[MetricPoints]) -> MetricPoints:
    """One after the other."""
    return MetricPoints(*map(np.concatenate, zip(*parts, strict=True))) if parts else points_of([], {}, {})


def tidy(points: MetricPoints, run_ids: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One value for each step, in the order of runs, metrics and steps: columns run_id, metric, step, value.

    Of several points of a step (a crash between log and save repeats one) the last is kept, the larger of two at once.

    Args:
        points: in any order.
        run_ids, metrics: what their positions mean.
    """
    order = np.lexsort((points.value, points.timestamp, points.step, points.metric, points.run))
    run, metric, step = points.run[order], points.metric[order], points.step[order]
    last = np.ones(len(order), dtype=bool)
    last[:-1] = (np.diff(run) != 0) | (np.diff(metric) != 0) | (np.diff(step) != 0)
    return pd.DataFrame(
        {
            "run_id": pd.Series(list(run_ids), dtype="str").take(run[last]).array,
            "metric": pd.Series(list(metrics), dtype="str").take(metric[last]).array,
            "step": step[last],
            "value": points.value[order][last],
        }
    )


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)

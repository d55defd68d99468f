"""What the data are like: rows, gaps and missing values, as tables and pictures."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labtrail.figures import COLOURS, heat_maps
from projects.pamap2.dataset import Dataset
from projects.pamap2.recording import Recording
from projects.pamap2.schema import ACTIVITIES, PLACES, SENSORS

_GROUPS = ("heart_rate", *PLACES)


def quality_table(recording: Recording) -> pd.DataFrame:
    """Missing values of one subject before anything is filled; columns subject, group, sensor, rows, missing, share."""
    missing = np.isnan(recording.values).sum(axis=0)
    rows = len(recording.values)
    groups = [next(group for group in _GROUPS if name.startswith(group)) for name in SENSORS]
    table = pd.DataFrame({"group": groups, "sensor": SENSORS, "rows": rows, "missing": missing})
    table.insert(0, "subject", recording.subject)
    return table.assign(share=missing / rows)


def bout_table(dataset: Dataset, bouts: np.ndarray) -> pd.DataFrame:
    """One row per bout: subject, activity, name, start, rows, length and the gap before it; times in seconds."""
    starts = np.flatnonzero(np.diff(bouts, prepend=-1) != 0)
    stops = np.append(starts[1:], len(bouts))
    seconds = np.asarray(dataset.seconds)
    gap = np.append(np.nan, seconds[starts[1:]] - seconds[stops[:-1] - 1])
    gap[np.append(True, np.diff(dataset.subjects[starts]) != 0)] = np.nan
    activities = dataset.activities[starts]
    return pd.DataFrame(
        {
            "subject": dataset.subjects[starts],
            "activity": activities,
            "name": [ACTIVITIES[int(activity)] for activity in activities],
            "start_s": seconds[starts],
            "rows": stops - starts,
            "length_s": seconds[stops - 1] - seconds[starts],
            "gap_before_s": gap,
        }
    )


def quality_figures(dataset: Dataset, bouts: np.ndarray, raw: pd.DataFrame) -> dict[str, Any]:
    """Rows by subject and activity, missing shares by sensor and subject, bout lengths, and heart rate over time."""
    rows = pd.crosstab(np.asarray(dataset.activities), np.asarray(dataset.subjects))
    names = [f"{activity} {ACTIVITIES[int(activity)]}" for activity in rows.index]
    subjects = [str(subject) for subject in rows.columns]
    counts = heat_maps({"rows": rows.to_numpy() / 1000}, names, subjects, "1000 rows", "Rows by activity and subject")
    # Heart rate is missing in nine rows of ten by its design, which would hide everything else.
    imus = raw[raw["group"] != "heart_rate"]
    shares = imus.groupby(["group", "subject"])["share"].mean().unstack("subject").reindex(list(PLACES)) * 100
    gaps = heat_maps(
        {"IMUs": shares.to_numpy()},
        list(PLACES),
        [str(column) for column in shares.columns],
        "% of rows",
        "Rows without a measurement, before filling",
    )
    return {
        "figures/rows.png": counts,
        "figures/missing.png": gaps,
        "figures/bouts.png": _bout_lengths(bout_table(dataset, bouts)),
        "figures/heart_rate.png": _heart_rate(dataset),
    }


def _bout_lengths(table: pd.DataFrame) -> Figure:
    names = sorted(table["activity"].unique())
    figure = Figure(figsize=(7, 0.3 * len(names) + 1.6), layout="constrained")
    axis = figure.subplots()
    for place, activity in enumerate(names):
        bouts = table[table["activity"] == activity]
        axis.plot(bouts["length_s"], np.full(len(bouts), place), "o", color=COLOURS[0], alpha=0.5)
    axis.set_yticks(range(len(names)), [f"{name} {ACTIVITIES[int(name)]}" for name in names], fontsize=8)
    axis.set(xlabel="seconds", title="Length of each bout")
    axis.grid(alpha=0.3, axis="x")
    return figure


def _heart_rate(dataset: Dataset) -> Figure:
    subjects = np.unique(dataset.subjects)
    figure = Figure(figsize=(9, 1.3 * len(subjects) + 0.8), layout="constrained")
    figure.suptitle("Heart rate after filling and smoothing (rows of activity 0 are gone)")
    column = SENSORS.index("heart_rate")
    axes = np.atleast_1d(figure.subplots(len(subjects), 1))
    for axis, subject in zip(axes, subjects, strict=True):
        rows = np.flatnonzero(dataset.subjects == subject)[::100]
        axis.plot(dataset.seconds[rows], dataset.values[rows, column], ".", markersize=2, color=COLOURS[1])
        axis.set_ylabel(f"{subject}\nbeats/min", fontsize=8)
    axes[-1].set_xlabel("seconds")
    return figure

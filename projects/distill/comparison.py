"""From runs to tables with alpha as the independent variable: paired by seed, beside baseline and control."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import labtrail as lt
from labtrail.statistics import bootstrap_mean, detectable, holm, paired_t, t_interval
from projects.distill.evidence import correct

_KEYS = ("data", "recipe", "method", "arm", "alpha")
# What a method has of its own against the same students without a teacher.
_COMPARED = (
    "accuracy",
    "accuracy_last",
    "nll",
    "brier",
    "ece",
    "stage_3_effective_dimension",
    "stage_3_two_nn",
    "stage_3_knn",
    "stage_3_probe",
)


def students(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the recipes that students have, data set by data set; teachers of another recipe are left out."""
    taught = runs[runs["method"] != "none"]
    wanted = set(zip(taught["data"], taught["recipe"], strict=True)) or set(
        zip(runs["data"], runs["recipe"], strict=True)
    )
    return runs[[pair in wanted for pair in zip(runs["data"], runs["recipe"], strict=True)]]


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each method and alpha, and what it gains on baseline and control with the same seeds.

    The t interval is over seeds, the bootstrap over test images (of the mean over seeds); p-values are paired over
    seeds and corrected by Holm within a data set.
    """
    rows = []
    known = students(runs)
    for key, group in lt.grouped(known.sort_values("seed"), _KEYS):
        score = t_interval(group["accuracy"].to_numpy(float))
        row: dict[str, Any] = dict(zip(_KEYS, key, strict=True))
        alike = known[(known["data"] == row["data"]) & (known["recipe"] == row["recipe"])]
        row |= {"seeds": len(group), "accuracy": float(score.value), "low": float(score.low), "high": float(score.high)}
        control = alike[(alike["method"] == "control") & (alike["alpha"] == row["alpha"])]
        for name, other in (("baseline", alike[alike["method"] == "none"]), ("control", control)):
            if row["method"] not in ("none", name):
                row |= _gain(group, other, name)
        rows.append({**row, "run_ids": " ".join(group["run_id"])})
    table = pd.DataFrame(rows)
    for name in ("baseline", "control"):
        column = f"p_{name}"
        if column in table:
            for _, index in table.groupby("data").groups.items():
                table.loc[index, f"{column}_holm"] = holm(table.loc[index, column].to_numpy(float))
    return table


def _gain(arm: pd.DataFrame, other: pd.DataFrame, name: str) -> dict[str, float]:
    """Paired differences of accuracy over the seeds that both have."""
    pairs = arm.merge(other, on="seed", suffixes=("", "_other"))
    if not len(pairs):
        return {}
    difference = (pairs["accuracy"] - pairs["accuracy_other"]).to_numpy(float)
    by_image = np.mean(
        [
            correct(run_id).astype(float) - correct(other_id)
            for run_id, other_id in zip(pairs["run_id"], pairs["run_id_other"], strict=True)
        ],
        axis=0,
    )
    interval, images = t_interval(difference), bootstrap_mean(by_image)
    return {
        f"gain_{name}": float(interval.value),
        f"gain_{name}_low": float(interval.low),
        f"gain_{name}_high": float(interval.high),
        f"gain_{name}_images_low": float(images.low),
        f"gain_{name}_images_high": float(images.high),
        f"p_{name}": paired_t(difference),
    }


def noise_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The floor under every measure: how much the baseline's seeds differ, and what so many seeds could detect."""
    rows = []
    student_runs = students(runs)
    for (data, recipe), baseline in lt.grouped(student_runs[student_runs["method"] == "none"], ["data", "recipe"]):
        for name in _COMPARED:
            values = baseline[name].dropna().to_numpy(float)
            if len(values) > 1:
                spread = float(values.std(ddof=1))
                rows.append((data, recipe, name, len(values), values.mean(), spread, detectable(spread, len(values))))
    return pd.DataFrame(
        rows, columns=["data", "recipe", "measure", "seeds", "mean", "deviation", "detectable_difference"]
    )


def measure_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of everything measured, by data, method and alpha."""
    student_runs = students(runs).drop(columns=["run_id", "seed", "model", "teacher"])
    return student_runs.groupby(list(_KEYS)).mean(numeric_only=True).reset_index()


def arms_of(table: pd.DataFrame) -> Sequence[str]:
    """Methods with a teacher, with the settings of their loss where those differ, in the order of their names."""
    return sorted(set(table["arm"]) - {"none", "control"})

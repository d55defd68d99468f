"""From runs to tables with alpha as the independent variable: paired by seed, beside baseline and control."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from labtrail.statistics import bootstrap_mean, detectable, holm, paired_t, t_interval
from projects.distill.evidence import correct

_KEYS = ("data", "method", "alpha")
# What a method has of its own against the same students without a teacher.
_COMPARED = (
    "accuracy", "accuracy_last", "nll", "brier", "ece", "stage_3_effective_dimension", "stage_3_two_nn", "stage_3_knn",
    "stage_3_probe",
)  # fmt: skip


def students(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the architecture that students have; teachers are left out."""
    taught = runs[runs["method"] != "none"]
    names = set(taught["model"]) if len(taught) else set(runs["model"])
    return runs[runs["model"].isin(names)]


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy of each method and alpha, and what it gains on baseline and control with the same seeds.

    The t interval is over seeds, the bootstrap over test images (of the mean over seeds); p-values are paired over
    seeds and corrected by Holm within a data set.
    """
    rows = []
    for (data, method, alpha), own in _groups(students(runs)):
        score = t_interval(own["accuracy"].to_numpy(float))
        row: dict[str, Any] = dict(zip(_KEYS, (data, method, alpha), strict=True))
        row |= {"seeds": len(own), "accuracy": float(score.value), "low": float(score.low), "high": float(score.high)}
        for name, other in (("baseline", _of(runs, data, "none", 0.0)), ("control", _of(runs, data, "control", alpha))):
            if method not in ("none", name):
                row |= _gain(own, other, name)
        rows.append({**row, "run_ids": " ".join(own["run_id"])})
    table = pd.DataFrame(rows)
    for name in ("baseline", "control"):
        column = f"p_{name}"
        if column in table:
            for _, index in table.groupby("data").groups.items():
                table.loc[index, f"{column}_holm"] = holm(table.loc[index, column].to_numpy(float))
    return table


def _of(runs: pd.DataFrame, data: str, method: str, alpha: float) -> pd.DataFrame:
    found = students(runs)
    return found[(found["data"] == data) & (found["method"] == method) & (found["alpha"] == alpha)]


def _gain(own: pd.DataFrame, other: pd.DataFrame, name: str) -> dict[str, float]:
    """Paired differences of accuracy over the seeds that both have."""
    pairs = own.merge(other, on="seed", suffixes=("", "_other"))
    if not len(pairs):
        return {}
    difference = (pairs["accuracy"] - pairs["accuracy_other"]).to_numpy(float)
    by_image = np.mean(
        [
            correct(one).astype(float) - correct(two)
            for one, two in zip(pairs["run_id"], pairs["run_id_other"], strict=True)
        ],
        axis=0,
    )
    found, images = t_interval(difference), bootstrap_mean(by_image)
    return {
        f"gain_{name}": float(found.value),
        f"gain_{name}_low": float(found.low),
        f"gain_{name}_high": float(found.high),
        f"gain_{name}_images_low": float(images.low),
        f"gain_{name}_images_high": float(images.high),
        f"p_{name}": paired_t(difference),
    }


def noise_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The floor under every measure: how much the baseline's seeds differ, and what so many seeds could detect."""
    rows = []
    own = students(runs)
    for data, baseline in own[own["method"] == "none"].groupby("data"):
        for name in _COMPARED:
            values = baseline[name].dropna().to_numpy(float)
            if len(values) > 1:
                spread = float(values.std(ddof=1))
                rows.append((data, name, len(values), values.mean(), spread, detectable(spread, len(values))))
    return pd.DataFrame(rows, columns=["data", "measure", "seeds", "mean", "deviation", "detectable_difference"])


def measure_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of everything measured, by data, method and alpha."""
    own = students(runs).drop(columns=["run_id", "seed", "model", "teacher"])
    return own.groupby(list(_KEYS)).mean(numeric_only=True).reset_index()


def _groups(runs: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    for key, own in runs.groupby(list(_KEYS), sort=True):
        assert isinstance(key, tuple)
        yield key, own.sort_values("seed")


def methods_of(table: pd.DataFrame) -> Sequence[str]:
    """Methods with a teacher, in the order of their names."""
    return sorted(set(table["method"]) - {"none", "control"})

"""Pictures of the comparison tables; the control arm is on every plot over alpha."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import labtrail as lt
from labtrail import figures
from projects.distill.comparison import arms_of, students

# Measures that are drawn as heat maps of method by alpha, with their words.
_MAPS: Mapping[str, str] = {
    "accuracy": "test accuracy",
    "ece": "expected calibration error",
    "teacher_agreement": "agreement with the teacher",
    "cka_33": "debiased CKA with the teacher, last stage",
    "stage_3_effective_dimension": "effective dimension, last stage",
}
_GREY = "0.45"


def figures_of(runs: pd.DataFrame, accuracy: pd.DataFrame, measures: pd.DataFrame) -> dict[str, Figure]:
    """Name -> figure.

    Args:
        runs: a row per run.
        accuracy, measures: as ``comparison`` makes them.
    """
    pictures = {}
    for data, table in accuracy.groupby("data"):
        for number, (recipe, group) in enumerate(table.groupby("recipe")):
            name = f"accuracy_{data}" + (f"_{number}" if number else "")
            pictures[name] = over_alpha(group, f"{data}, {recipe}" if recipe else str(data))
    if not arms_of(runs):
        return pictures
    pictures |= {f"map_{name}": heat_map(measures, name, words) for name, words in _MAPS.items()}
    pictures["alignment"] = alignment(runs)
    pictures["cka"] = stages(measures)
    pictures["pull"] = gradient_ratios(runs)
    return pictures


def over_alpha(table: pd.DataFrame, data: str) -> Figure:
    """Accuracy over alpha, one panel per method, beside the control arm and the baseline."""
    names = arms_of(table) or ["control"]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.0 * columns + 0.6, 2.6 * rows + 0.9), layout="constrained")
    figure.suptitle(f"{data}: test accuracy over alpha, mean over seeds with t interval")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    baseline = table[table["method"] == "none"]
    for index, axis in enumerate(axes):
        if index >= len(names):
            axis.set_visible(False)
            continue
        if len(baseline):
            axis.axhline(float(baseline["accuracy"].iloc[0]), color="black", linewidth=1, label="baseline")
            low, high = (float(baseline[name].iloc[0]) for name in ("low", "high"))
            if np.isfinite([low, high]).all():
                axis.axhspan(low, high, color="0.9")
        _line(axis, table[table["method"] == "control"], "control: (1 - alpha) CE", _GREY, "s")
        if names[index] != "control":
            _line(axis, table[table["arm"] == names[index]], "the method", figures.COLOURS[0], "o")
        axis.set_title(names[index], fontsize=9)
        axis.set_xticks(sorted(table.loc[table["method"] != "none", "alpha"].unique()))
        axis.grid(alpha=0.3)
    for axis in axes[-columns:]:
        axis.set_xlabel("alpha")
    # A wild interval of one method must not hide the others.
    shown = table["accuracy"].to_numpy(float)
    reach = max(0.02, float(np.ptp(shown)))
    axes[0].set_ylim(max(0.0, shown.min() - reach), min(1.0, shown.max() + reach))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _line(axis: Axes, points: pd.DataFrame, label: str, colour: str, marker: str) -> None:
    if not len(points):
        return
    points = points.sort_values("alpha")
    reach = np.abs(np.stack([points["accuracy"] - points["low"], points["high"] - points["accuracy"]]))
    axis.errorbar(
        points["alpha"],
        points["accuracy"],
        reach,
        label=label,
        color=colour,
        fmt=f"{marker}-",
        markersize=4,
        capsize=2,
        linewidth=1,
    )


def heat_map(measures: pd.DataFrame, name: str, words: str) -> Figure:
    """One measure by method and alpha, a panel for each data set."""
    taught = measures[measures["method"] != "none"]
    alphas, names = sorted(taught["alpha"].unique()), sorted(taught["arm"].unique())
    panels = {}
    for (data, recipe), part in lt.grouped(taught, ["data", "recipe"]):
        wide = part.pivot(index="arm", columns="alpha", values=name).reindex(index=names, columns=alphas)
        panels[f"{data}, {recipe}" if recipe else str(data)] = wide.to_numpy(float)
    return figures.heat_maps(
        panels, names, [f"{alpha:g}" for alpha in alphas], name, f"{words}: method by alpha", digits=2
    )


def alignment(runs: pd.DataFrame) -> Figure:
    """Whether students that are more like their teacher are better: accuracy over CKA, one point per run."""
    taught = students(runs[~runs["method"].isin(["none", "control"])])
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for index, (method, part) in enumerate(taught.groupby("arm")):
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        axis.scatter(part["cka_33"], part["accuracy"], label=method, color=colour, s=14 + 30 * part["alpha"])
    axis.set(
        xlabel="debiased CKA with the teacher, last stage",
        ylabel="test accuracy",
        title="Alike and accurate? One point per run, larger for larger alpha",
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def stages(measures: pd.DataFrame) -> Figure:
    """Debiased CKA of all pairs of stages, one panel per method, mean over data sets, alphas and seeds."""
    taught = measures[~measures["method"].isin(["none", "control"])]
    panels = {
        str(method): np.array([[part[f"cka_{row}{column}"].mean() for column in "123"] for row in "123"])
        for method, part in taught.groupby("arm")
    }
    return figures.heat_maps(
        panels,
        ["1", "2", "3"],
        ["1", "2", "3"],
        "debiased CKA",
        "Stages of the student (rows) and the teacher (columns)",
        digits=2,
        width=2.0,
    )


def gradient_ratios(runs: pd.DataFrame) -> Figure:
    """How hard the extra term pulls at the student against cross entropy: alpha means another thing to each method."""
    taught = runs.dropna(subset=["gradient_ratio"])
    names = sorted(taught["method"].unique())
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axis = figure.subplots()
    for index, name in enumerate(names):
        values = taught.loc[taught["method"] == name, "gradient_ratio"]
        axis.plot(np.full(len(values), index), values, "o", color=figures.COLOURS[0], alpha=0.5, markersize=4)
    axis.axhline(1.0, color="0.6", linewidth=1)
    axis.set_xticks(range(len(names)), names, fontsize=8)
    axis.set(
        yscale="log",
        ylabel="gradient of the extra term / of CE",
        title="The pull of each method at its base weight, one point per run",
    )
    axis.grid(alpha=0.3, axis="y")
    return figure

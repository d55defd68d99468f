"""The figures of recomputation: what memory costs, and what it gives."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labtrail.figures import COLOURS
from projects.profiler.charts import MIB


def frontier(plans: pd.DataFrame, greedy: pd.DataFrame, base_bytes: int, target_bytes: float, title: str) -> Figure:
    """Peak against extra time, with what is proven to be the least, beside mu-TWO's greedy choice.

    Args:
        own: columns peak_bytes, extra_time_fraction, gap; one row per target.
        greedy: the same of the greedy choice, without gap.
        base_bytes: peak of the step as it is.
        target_bytes: what was asked for.
        title: over the figure.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    share = plans["peak_bytes"] / base_bytes * 100
    extra = plans["extra_time_fraction"] * 100
    axis.fill_between(share, extra * (1 - plans["gap"]), extra, color=COLOURS[0], alpha=0.25, label="not proven", lw=0)
    axis.plot(share, extra, "o-", markersize=4, color=COLOURS[0], label="labtrail")
    if len(greedy):
        axis.plot(
            greedy["peak_bytes"] / base_bytes * 100,
            greedy["extra_time_fraction"] * 100,
            ".-",
            markersize=3,
            color=COLOURS[1],
            linewidth=1,
            label="mu-TWO's greedy choice",
        )
    axis.axvline(target_bytes / base_bytes * 100, color="0.35", linestyle="--", linewidth=1)
    axis.set_ylim(-1, max(10.0, 1.6 * extra.max()))
    _finish(axis, title)
    return figure


def beside_torch(table: pd.DataFrame, base_bytes: int, title: str) -> Figure:
    """What torch's budgets reach, and what labtrail's plans cost at the same peaks.

    Args:
        table: columns peak_bytes, extra_time_fraction, draws_again, own_extra_time_fraction.
        base_bytes: peak of forward and backward pass as they are.
        title: over the figure.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    share = table["peak_bytes"] / base_bytes * 100
    for wrong, marker, label in ((False, "o", "torch"), (True, "x", "torch, wrong gradients: dropout drawn again")):
        chosen = table["draws_again"] == wrong
        if chosen.any():
            axis.plot(share[chosen], table["extra_time_fraction"][chosen] * 100, marker, color=COLOURS[1], label=label)
    known = table.dropna(subset="own_extra_time_fraction").sort_values("peak_bytes")
    axis.plot(
        known["peak_bytes"] / base_bytes * 100,
        known["own_extra_time_fraction"] * 100,
        ".-",
        color=COLOURS[0],
        label="labtrail at the same peak",
    )
    axis.set_ylim(-1, None)
    _finish(axis, title)
    axis.set(xlabel="peak of forward and backward pass (% of all kept)")
    return figure


def _finish(axis: Axes, title: str) -> None:
    axis.set(xlabel="peak of the step (% of all kept)", ylabel="extra time (%)", title=title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)


def by_batch(table: pd.DataFrame, title: str) -> Figure:
    """Memory and time of a step over the batch size, with and without the plan.

    Args:
        table: columns batch_size, baseline_peak_bytes, peak_bytes, baseline_step_time_s, step_time_s; NaN where it was
            not run.
        title: over the figure.
    """
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    places = range(len(table))
    for offset, colour, prefix, label in (
        (-0.2, COLOURS[3], "baseline_", "all kept"),
        (0.2, COLOURS[0], "", "planned"),
    ):
        shifted = [place + offset for place in places]
        left.bar(shifted, table[f"{prefix}peak_bytes"] / MIB, 0.38, color=colour, label=label)
        right.bar(shifted, table[f"{prefix}step_time_s"], 0.38, color=colour, label=label)
    left.set(ylabel="peak memory (MiB)")
    right.set(ylabel="time of a step (s)")
    for axis in (left, right):
        axis.set_xticks(list(places), [f"{size}" for size in table["batch_size"]])
        axis.set(xlabel="batch size")
        axis.grid(alpha=0.3, axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=8)
    return figure

"""Figures from arrays and frames; no state of pyplot, colours safe for colour-blind readers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labtrail.statistics import Estimate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

# Okabe & Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_TICKS = 25
_MARKERS = "osD^vPX"


def _figure(figsize: tuple[float, float]) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=figsize, layout="constrained")


def _integers() -> "MaxNLocator":
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def learning_curves(history: "pd.DataFrame", title: str) -> "Figure":
    """Metrics over steps, one panel per quantity, one line per split.

    Args:
        history: columns metric (``train/loss``), step, value.
        title: over all panels.
    """
    split = history["metric"].str.split("/", n=1, expand=True)
    frame = history.assign(split=split[0], quantity=split[1])
    quantities = sorted(frame["quantity"].unique())
    figure = _figure((4.2 * len(quantities), 3.4))
    figure.suptitle(title)
    for axis, quantity in zip(np.atleast_1d(figure.subplots(1, len(quantities))), quantities, strict=True):
        panel = frame[frame["quantity"] == quantity]
        for colour, (name, line) in zip(COLOURS, panel.sort_values("step").groupby("split"), strict=False):
            axis.plot(line["step"], line["value"], label=name, color=colour, marker="." if len(line) < 30 else None)
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.set_major_locator(_integers())
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def confusion(counts: np.ndarray, names: np.ndarray, title: str) -> "Figure":
    """Counts (true class by predicted class) as a heat map; shape (classes, classes)."""
    figure = _figure((6.4, 5.6))
    axis = figure.subplots()
    image = axis.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max()))
    step = max(1, len(names) // _TICKS)
    places = np.arange(0, len(names), step)
    axis.set_xticks(places, names[places], rotation=90, fontsize=7)
    axis.set_yticks(places, names[places], fontsize=7)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axis, label="clips", shrink=0.8, ticks=_integers())
    return figure


def heat_maps(
    panels: Mapping[str, np.ndarray],
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    title: str,
    *,
    centre: float | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
    width: float = 3.6,
    digits: int | None = None,
) -> "Figure":
    """Matrices of one shape side by side under one colour scale.

    Args:
        panels: panel title -> matrix (rows, columns); NaN stays blank.
        rows, columns: names along the axes.
        label: of the colour bar, with the unit.
        title: over all panels.
        centre: the neutral value of a diverging scale; None: a sequential scale.
        marks: panel title -> bool matrix; True gets a dot.
        width: of a panel, in inches.
        digits: decimals of the values written into the cells; None: no values.
    """
    height = max(2.4, 0.26 * len(rows) + 1.4)
    figure = _figure((width * len(panels) + 1.2, height))
    figure.suptitle(title)
    values = np.concatenate([np.ravel(matrix) for matrix in panels.values()])
    low, high = (float(np.nanmin(values)), float(np.nanmax(values))) if np.isfinite(values).any() else (0.0, 1.0)
    if centre is not None:
        reach = max(abs(low - centre), abs(high - centre), 1e-12)
        low, high = centre - reach, centre + reach
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axis, (name, matrix) in zip(axes, panels.items(), strict=True):
        image = axis.imshow(matrix, cmap="viridis" if centre is None else "RdBu_r", vmin=low, vmax=high, aspect="auto")
        axis.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > 12 else 0, fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_title(name, fontsize=9)
        if digits is not None:
            _write_values(axis, matrix, digits, low, high)
        if marks is not None:
            at_row, at_column = np.nonzero(marks[name])
            axis.plot(at_column, at_row, ".", color="black", markersize=4)
    figure.colorbar(image, ax=list(axes), label=label, shrink=0.9)
    return figure


def _write_values(axis: "Axes", matrix: np.ndarray, digits: int, low: float, high: float) -> None:
    """Numbers in the cells, dark on bright ones and bright on dark ones."""
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "white" if value < (low + high) / 2 else "black"
            axis.text(column, row, f"{value:.{digits}f}", ha="center", va="center", fontsize=6, color=colour)


def bands(
    lines: Mapping[str, Estimate], x: np.ndarray, xlabel: str, ylabel: str, title: str, figsize: tuple[float, float]
) -> "Figure":
    """Curves with their intervals; each line's arrays have the length of ``x``."""
    figure = _figure(figsize)
    axis = figure.subplots()
    for index, (name, line) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        axis.plot(x, line.value, label=name, color=colour, marker=_MARKERS[index % len(_MARKERS)], markersize=4)
        axis.fill_between(x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    return figure


def intervals(
    groups: Sequence[str],
    series: Mapping[str, Estimate],
    ylabel: str,
    title: str,
    *,
    neutral: float | None = 0.0,
    references: Mapping[str, np.ndarray] | None = None,
    reference_name: str = "",
) -> "Figure":
    """Points with intervals, several series beside each other in every group.

    Args:
        groups: names along the axis.
        series: name -> estimates, arrays of the length of ``groups``.
        ylabel, title: words.
        neutral: where a line is drawn; None: nowhere.
        references: name of a series -> values that a grey dash shows at its points.
        reference_name: what the dashes are.
    """
    rows = (len(series) + 2) // 2
    figure = _figure((max(7.2, 1.3 * len(groups)), 3.4 + 0.2 * rows))
    axis = figure.subplots()
    if neutral is not None:
        axis.axhline(neutral, color="0.6", linewidth=1)
    width = 0.7 / max(1, len(series))
    for index, (name, estimate) in enumerate(series.items()):
        x = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
        reach = np.abs(np.stack([estimate.value - estimate.low, estimate.high - estimate.value]))
        axis.errorbar(
            x,
            estimate.value,
            reach,
            label=name,
            color=COLOURS[index % len(COLOURS)],
            fmt=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            capsize=3,
        )
        if references is not None and name in references:
            label = reference_name if index == 0 else None
            axis.plot(x, references[name], "_", color="0.4", markersize=10, markeredgewidth=2, label=label)
    axis.set_xticks(range(len(groups)), groups, fontsize=8)
    axis.set(ylabel=ylabel, title=title)
    axis.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def slices(table: "pd.DataFrame", value: str, logs: Mapping[str, bool], ylabel: str, title: str) -> "Figure":
    """Results over each searched quantity, one panel each; later rows are darker.

    Args:
        table: one row per trial, with a column ``value`` and one for each quantity.
        value: name of the column of results.
        logs: quantity -> whether its axis is logarithmic.
        ylabel, title: words.
    """
    figure = _figure((3.4 * len(logs) + 0.8, 3.4))
    figure.suptitle(title)
    axes = np.atleast_1d(figure.subplots(1, len(logs), sharey=True))
    for axis, (name, log) in zip(axes, logs.items(), strict=True):
        shown = table[name] if table[name].dtype.kind in "biufc" else table[name].astype(str)
        points = axis.scatter(
            shown,
            table[value],
            c=np.arange(len(table)),
            cmap="Blues",
            vmin=-len(table) / 2,
            edgecolors="0.3",
            linewidths=0.5,
        )
        axis.set(xlabel=name, xscale="log" if log else "linear" if shown is table[name] else axis.get_xscale())
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    figure.colorbar(points, ax=list(axes), label="order of trials", ticks=_integers())
    return figure


def bars(values: Mapping[str, float], xlabel: str, title: str) -> "Figure":
    """Horizontal bars, the largest on top."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = _figure((6.0, 0.4 * len(ordered) + 1.4))
    axis = figure.subplots()
    axis.barh([name for name, _ in ordered], [value for _, value in ordered], color=COLOURS[0])
    axis.set(xlabel=xlabel, title=title)
    axis.grid(alpha=0.3, axis="x")
    return figure

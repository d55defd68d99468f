"""Figures from arrays and frames; no state of pyplot, colours safe for colour-blind readers."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_TICKS = 25


def learning_curves(history: pd.DataFrame, title: str) -> Figure:
    """Metrics over steps, one panel per quantity, one line per split.

    Args:
        history: columns metric (``train/loss``), step, value.
        title: over all panels.
    """
    split = history["metric"].str.split("/", n=1, expand=True)
    frame = history.assign(split=split[0], quantity=split[1])
    quantities = sorted(frame["quantity"].unique())
    figure = Figure(figsize=(4.2 * len(quantities), 3.4), layout="constrained")
    figure.suptitle(title)
    for axis, quantity in zip(np.atleast_1d(figure.subplots(1, len(quantities))), quantities, strict=True):
        own = frame[frame["quantity"] == quantity]
        for colour, (name, line) in zip(COLOURS, own.sort_values("step").groupby("split"), strict=False):
            axis.plot(line["step"], line["value"], label=name, color=colour, marker="." if len(line) < 30 else None)
        axis.set(xlabel="epoch", ylabel=quantity)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def confusion(counts: np.ndarray, names: np.ndarray, title: str) -> Figure:
    """Counts (true class by predicted class) as a heat map; shape (classes, classes)."""
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max()))
    step = max(1, len(names) // _TICKS)
    places = np.arange(0, len(names), step)
    axis.set_xticks(places, names[places], rotation=90, fontsize=7)
    axis.set_yticks(places, names[places], fontsize=7)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, ax=axis, label="clips", shrink=0.8, ticks=MaxNLocator(integer=True))
    return figure

"""The figures of a profile."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from labtrail.figures import COLOURS
from labtrail.stepgraph.ir import Phase

MIB = 2**20
PART_COLOURS: Mapping[str, str] = {
    "parameters": COLOURS[0],
    "optimizer_state": COLOURS[5],
    "gradients": COLOURS[1],
    "activations": COLOURS[2],
    "temporaries": COLOURS[4],
    "workspace": COLOURS[3],
}
_PHASE_COLOURS = {Phase.FORWARD: COLOURS[0], Phase.BACKWARD: COLOURS[1], Phase.OPTIMIZER: COLOURS[2]}
_TOP = 12


def node_runtime(nodes: pd.DataFrame, title: str) -> Figure:
    """Run time of every node in order, and of the operators that take most of it."""
    figure, (left, right) = _pair(title)
    called = nodes[nodes["op"] != "placeholder"]
    for phase, phase_nodes in _by_phase(called):
        left.scatter(
            phase_nodes["id"],
            phase_nodes["run_time_s"] * 1e3,
            s=5,
            color=_PHASE_COLOURS[phase],
            label=phase.value,
            linewidths=0,
        )
    left.set(xlabel="rank of the node", ylabel="run time (ms)", yscale="log")
    left.legend(frameon=False, fontsize=8, markerscale=3)
    left.grid(alpha=0.3)
    totals = called.pivot_table(index="op", columns="phase", values="run_time_s", aggfunc="sum", fill_value=0.0) * 1e3
    _stacked_bars(right, totals.loc[totals.sum(axis=1).nlargest(_TOP).index[::-1]], "total run time (ms)")
    return figure


def node_peak(nodes: pd.DataFrame, title: str) -> Figure:
    """Memory while every node runs, and the nodes that create most themselves."""
    figure, (left, right) = _pair(title)
    called = nodes[nodes["op"] != "placeholder"]
    for phase, node_bytes in _by_phase(called):
        left.scatter(
            node_bytes["id"],
            node_bytes["peak_memory_bytes"] / MIB,
            s=5,
            color=_PHASE_COLOURS[phase],
            label=phase.value,
            linewidths=0,
        )
    left.set(xlabel="rank of the node", ylabel="peak memory (MiB)", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, markerscale=3)
    left.grid(alpha=0.3)
    node_bytes = called["created_bytes"] + called["workspace_bytes"]
    table = called.loc[node_bytes.nlargest(_TOP).index[::-1]]
    labels = [f"{row.id} {str(row.op).removeprefix('aten.')}" for row in table.itertuples()]
    right.barh(labels, table["created_bytes"] / MIB, color=COLOURS[0], label="results")
    right.barh(
        labels, table["workspace_bytes"] / MIB, left=table["created_bytes"] / MIB, color=COLOURS[3], label="workspace"
    )
    right.set(xlabel="made by one node (MiB)")
    _finish_bars(right)
    return figure


def activation_sizes(kept: pd.DataFrame, title: str) -> Figure:
    """Size of every activation in order of creation, and of the modules that keep most."""
    figure, (left, right) = _pair(title)
    left.vlines(kept["created_rank"], 0, kept["memory_bytes"] / MIB, color=COLOURS[2], linewidth=1)
    left.set(xlabel="rank of creation", ylabel="size (MiB)", ylim=(0, None))
    left.grid(alpha=0.3)
    largest = (kept.groupby("module")["memory_bytes"].sum() / MIB).nlargest(_TOP)[::-1]
    right.barh([name or "(loss and top level)" for name in largest.index], largest, color=COLOURS[2])
    right.set(xlabel="activations of a module (MiB)")
    _finish_bars(right, legend=False)
    return figure


def inactive_time(kept: pd.DataFrame, title: str) -> Figure:
    """How long every activation waits, in order of creation, and whether it could be swapped meanwhile."""
    figure, (left, right) = _pair(title)
    fits = kept["swap_time_s"] <= kept["inactive_time_s"]
    for chosen, colour, label in (
        (fits, COLOURS[0], "waits longer than a swap takes"),
        (~fits, COLOURS[1], "does not"),
    ):
        chosen_rows = kept[chosen]
        left.scatter(
            chosen_rows["created_rank"],
            chosen_rows["inactive_time_s"] * 1e3,
            s=8,
            color=colour,
            label=label,
            linewidths=0,
        )
        right.scatter(
            chosen_rows["memory_bytes"] / MIB, chosen_rows["inactive_time_s"] * 1e3, s=8, color=colour, linewidths=0
        )
    left.set(xlabel="rank of creation", ylabel="inactive time (ms)", ylim=(0, None))
    right.set(xlabel="size (MiB)", ylabel="inactive time (ms)", xscale="log", ylim=(0, None))
    left.legend(frameon=False, fontsize=8, markerscale=2)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return figure


def memory_timeline(
    parts: Mapping[str, np.ndarray], starts: Mapping[Phase, int], limit_bytes: float | None, first: int, title: str
) -> Figure:
    """Memory over the step by part, with the phases' borders and the device's limit.

    Args:
        parts: name -> bytes at every node, int64 (nodes,).
        starts: first node of each phase.
        limit_bytes: of the device; None: no line.
        first: the first node that is shown.
        title: over the figure.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axis = figure.subplots()
    rank = np.arange(len(next(iter(parts.values()))))[first:]
    order = [name for name in PART_COLOURS if name in parts]
    stacked = [parts[name][first:] / MIB for name in order]
    labels = [name.replace("_", " ") for name in order]
    axis.stackplot(rank, stacked, colors=[PART_COLOURS[name] for name in order], labels=labels, linewidth=0)
    total = np.sum(stacked, axis=0)
    top = int(total.argmax())
    axis.plot(rank[top], total[top], "v", color="black", markersize=6)
    axis.annotate(f"{total[top]:,.0f} MiB", (rank[top], total[top]), (6, 2), textcoords="offset points", fontsize=9)
    for phase, start in starts.items():
        axis.axvline(start, color="0.35", linestyle="--", linewidth=1)
        axis.text(start, 1.0, f" {phase.value}", transform=axis.get_xaxis_transform(), fontsize=8, va="bottom")
    if limit_bytes is not None:
        axis.axhline(limit_bytes / MIB, color=COLOURS[1], linewidth=1.5)
        axis.text(rank[0], limit_bytes / MIB, "memory limit ", color=COLOURS[1], fontsize=8, va="bottom")
    axis.set(xlabel="rank of the node", ylabel="memory (MiB)", xlim=(rank[0], rank[-1]), ylim=(0, None))
    axis.set_title(title, pad=18)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def memory_by_batch(table: pd.DataFrame, limit_bytes: float | None, title: str) -> Figure:
    """Peak memory of every batch size by part, and what was measured.

    Args:
        table: columns label, the parts in bytes, measured (bytes, NaN where it was not).
        limit_bytes: of the device; None: no line.
        title: over the figure.
    """
    figure = Figure(figsize=(max(5.6, 0.9 * len(table) + 3.6), 4.0), layout="constrained")
    axis = figure.subplots()
    below = np.zeros(len(table))
    places = np.arange(len(table))
    for name in [name for name in PART_COLOURS if name in table]:
        height = table[name].to_numpy(float) / MIB
        axis.bar(places, height, 0.6, bottom=below, color=PART_COLOURS[name], label=name.replace("_", " "))
        below += height
    axis.plot(places, table["measured"] / MIB, "D", color="black", markersize=5, label="measured peak")
    if limit_bytes is not None:
        axis.axhline(limit_bytes / MIB, color=COLOURS[1], linewidth=1.5, label="memory limit")
    axis.set_xticks(places, table["label"], fontsize=8)
    if len(table) > 4:
        for label in axis.get_xticklabels():
            label.set(rotation=30, ha="right", rotation_mode="anchor")
    top = max(below.max(), (limit_bytes or 0) / MIB)
    axis.set(ylabel="memory at the peak (MiB)", title=title, ylim=(0, 1.06 * top))
    axis.grid(alpha=0.3, axis="y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _pair(title: str) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(11.0, 4.0), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(1, 2, width_ratios=[1.3, 1.0]))


def _by_phase(nodes: pd.DataFrame) -> list[tuple[Phase, pd.DataFrame]]:
    return [(phase, nodes[nodes["phase"] == phase.value]) for phase in Phase if (nodes["phase"] == phase.value).any()]


def _stacked_bars(axis: Axes, table: pd.DataFrame, xlabel: str) -> None:
    left = np.zeros(len(table))
    names = [str(name).removeprefix("aten.") for name in table.index]
    for phase in [phase for phase in Phase if phase.value in table]:
        axis.barh(names, table[phase.value], left=left, color=_PHASE_COLOURS[phase], label=phase.value)
        left += table[phase.value].to_numpy()
    axis.set(xlabel=xlabel)
    _finish_bars(axis)


def _finish_bars(axis: Axes, legend: bool = True) -> None:
    axis.tick_params(axis="y", labelsize=7)
    axis.grid(alpha=0.3, axis="x")
    if legend:
        axis.legend(frameon=False, fontsize=8, loc="lower right")

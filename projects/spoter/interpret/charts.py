"""The figures of an analysis, from its tables."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labtrail.figures import COLOURS, bands, heat_maps, intervals
from labtrail.statistics import Estimate

_LABELS = {
    "entropy": "entropy / log T (1 = uniform)",
    "divergence": "Jensen-Shannon divergence (bits)",
    "distance": "mean |query - key| / uniform",
    "ablation": "change of the predicted class's logit",
}


_STACK_COLOURS = {"enc": COLOURS[0], "dec": COLOURS[1]}


def head_maps(table: pd.DataFrame, statistic: str, column: str, title: str) -> Figure:
    """One panel per epoch, modules by heads; a dot where the interval of value - null does not hold 0."""
    rows = table[table["statistic"] == statistic]
    modules, heads = list(dict.fromkeys(rows["module"])), sorted(rows["head"].unique())
    panels, marks = {}, {}
    for epoch, part in rows.groupby("epoch"):
        grid = part.set_index(["module", "head"])
        name = f"epoch {epoch}" if epoch else "before training"
        panels[name] = _grid(grid[column], modules, heads)
        clear = (grid["difference_low"] > 0) | (grid["difference_high"] < 0)
        marks[name] = _grid(clear.astype(float), modules, heads) == 1
    centre = 0.0 if column == "difference" or statistic == "ablation" else None
    label = _LABELS[statistic] + (", minus its null" if column == "difference" and statistic != "ablation" else "")
    return heat_maps(
        panels, modules, [str(head) for head in heads], label, title, centre=centre, marks=marks, width=2.6
    )


def _grid(values: pd.Series, modules: list[str], heads: list[int]) -> np.ndarray:
    return values.unstack("head").reindex(index=modules, columns=heads).to_numpy(dtype=float)


def head_trends(table: pd.DataFrame) -> Figure:
    """Mean over the heads of a stack at each epoch, one panel per statistic, beside its null."""
    statistics = ["entropy", "divergence", "distance"]
    figure = Figure(figsize=(4.2 * len(statistics), 3.4), layout="constrained")
    figure.suptitle("Heads through training: mean over heads (solid) and its null (dashed)")
    for axis, statistic in zip(figure.subplots(1, len(statistics)), statistics, strict=True):
        rows = table[table["statistic"] == statistic]
        for stack, part in rows.groupby("stack"):
            colour = _STACK_COLOURS[str(stack)]
            means = part.groupby("epoch")[["value", "null"]].mean()
            axis.plot(means.index, means["value"], marker="o", color=colour, label=stack)
            axis.plot(means.index, means["null"], marker=".", color=colour, linestyle="--")
        axis.set(xlabel="epoch", ylabel=_LABELS[statistic])
        axis.grid(alpha=0.3)
        if len(rows):
            axis.legend(frameon=False)
    return figure


def similarity_maps(table: pd.DataFrame) -> dict[str, Figure]:
    """Debiased CKA: each layer across epochs, and all layers at the last epoch."""
    across = table[table["layer_a"] == table["layer_b"]]
    layers = list(dict.fromkeys(across["layer_a"]))
    figures = {}
    if layers:
        pairs = list(dict.fromkeys(zip(across["epoch_a"], across["epoch_b"], strict=True)))
        grid = across.assign(pair=list(zip(across["epoch_a"], across["epoch_b"], strict=True)))
        matrix = grid.pivot(index="layer_a", columns="pair", values="cka").reindex(index=layers, columns=pairs)
        names = [f"{first}-{second}" for first, second in pairs]
        figures["figures/cka_epochs.png"] = heat_maps(
            {"epochs compared": matrix.to_numpy()},
            layers,
            names,
            "debiased CKA",
            "Each layer with itself, by epoch",
            width=max(3.6, 0.5 * len(pairs)),
        )
    last = table[(table["epoch_a"] == table["epoch_b"])]
    names = list(dict.fromkeys([*last["layer_a"], *last["layer_b"]]))
    matrix = np.eye(len(names))
    for row in last.itertuples():
        row_index, column_index = names.index(str(row.layer_a)), names.index(str(row.layer_b))
        matrix[row_index, column_index] = matrix[column_index, row_index] = float(str(row.cka))
    figures["figures/cka_layers.png"] = heat_maps(
        {"last epoch": matrix}, names, names, "debiased CKA", "Layers with each other", width=4.6
    )
    return figures


def deletion_chart(curves: pd.DataFrame) -> Figure:
    """Probability of the predicted class as frames are left out, the most important first."""
    lines = {
        str(name): Estimate(*(part[column].to_numpy() for column in ("value", "low", "high")))
        for name, part in curves.groupby("method", sort=False)
    }
    epoch = curves["epoch"].iloc[0]
    return bands(
        lines,
        curves["removed"].unique(),
        "share of frames left out",
        "probability of the predicted class",
        f"Deletion at epoch {epoch}: lower is a better ranking (95 % over clips)",
        (6.0, 4.0),
    )


def occlusion_chart(table: pd.DataFrame) -> Figure:
    """Change of the logit by group of joints and fill, with random joints of the same number beside it."""
    groups = list(dict.fromkeys(table["group"]))
    series: dict[str, Estimate] = {}
    for fill, part in table.groupby("fill", sort=False):
        series[f"set to {fill}"] = Estimate(*(part[name].to_numpy() for name in ("change", "low", "high")))
        null = part["null"].to_numpy()
        series[f"random joints, set to {fill}"] = Estimate(null, null, null)
    return intervals(groups, series, "change of the predicted class's logit", "Without a group of joints")


def reading_chart(table: pd.DataFrame) -> Figure:
    """Query-key norms of the first encoder layer, in units of an untrained network's."""
    panels: Mapping[str, np.ndarray] = {
        f"{side} side": part.assign(ratio=part["norm"] / part["null"])
        .pivot(index="head", columns="joint", values="ratio")
        .reindex(columns=list(dict.fromkeys(part["joint"])))
        .to_numpy()
        for side, part in table.groupby("side", sort=False)
    }
    heads = [str(head) for head in sorted(table["head"].unique())]
    return heat_maps(
        panels,
        heads,
        list(dict.fromkeys(table["joint"])),
        "norm / untrained mean",
        "What the first layer's heads read: joints by query-key weight",
        centre=1.0,
        width=8.5,
    )


def geometry_chart(table: pd.DataFrame) -> Figure:
    """RSA of every sign layer with every layer of each language model."""
    rows = table[table["model"] != "spelling"]
    signs = list(dict.fromkeys(rows["sign_layer"]))
    layers = sorted(rows["layer"].unique())
    panels, marks = {}, {}
    for model, part in rows.groupby("model", sort=False):
        grid = part.pivot(index="sign_layer", columns="layer").reindex(index=signs)
        panels[str(model)] = grid["rsa"].to_numpy()
        marks[str(model)] = (grid["rsa_q"] < 0.05).to_numpy()
    title = "Geometry of signs and glosses (dot: q < 0.05)"
    return heat_maps(panels, signs, layers, "RSA (Spearman)", title, centre=0.0, marks=marks)

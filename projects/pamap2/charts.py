"""Pictures of the comparison tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from labtrail import figures
from labtrail.statistics import Estimate, confusion
from projects.pamap2.comparison import EDGES_S, bin_name
from projects.pamap2.evidence import SHARES
from projects.pamap2.inputs import NAMES


def figures_of(tables: Mapping[str, pd.DataFrame], windows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Figure]:
    """Name -> figure; what the runs cannot tell is left out.

    Args:
        tables: as ``comparison`` makes them, by name.
        windows: the answers of all runs.
        classes: names of the classes.
    """
    headline = _headline(tables["protocols"]["protocol"])
    pictures = {
        "protocols": protocols(tables["protocols"]),
        "confusion": confusions(windows, classes),
        "subsets": subsets(tables["subsets"]),
        "ablation": ablation(_of(tables["ablation"], headline), headline),
        "subjects": subjects(_of(tables["subjects"], headline), headline),
        "position": position(_of(tables["position"], headline), headline),
    }
    if len(tables["shares"]):
        pictures["shares"] = shares(tables["shares"])
    return pictures


def _headline(protocols: pd.Series) -> str:
    """The protocol that tells about new people, where there is one."""
    return "loso" if "loso" in set(protocols) else str(protocols.iloc[0])


def _of(table: pd.DataFrame, protocol: str) -> pd.DataFrame:
    return table[table["protocol"] == protocol]


def _short(setting: str) -> str:
    return setting.replace(", ", "\n")


def protocols(table: pd.DataFrame) -> Figure:
    """Macro F1 of each setting under each protocol, the baseline beside it."""
    groups = list(dict.fromkeys(table["protocol"]))
    by_setting = {
        str(setting): group.set_index("protocol").reindex(groups) for setting, group in table.groupby("setting")
    }
    trees = {name: rows["baseline_extratrees_macro_f1"].to_numpy(float) for name, rows in by_setting.items()}
    return figures.intervals(
        groups,
        {name: _estimate(rows, "macro_f1") for name, rows in by_setting.items()},
        "macro F1 on test windows",
        "Protocols side by side: mean over seeds, 95 % t interval",
        neutral=None,
        references=trees,
        reference_name="ExtraTrees on the same windows",
    )


def confusions(windows: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """True class by predicted class, shares of each true class, all runs of a protocol together."""
    panels = {}
    for protocol, group in windows.groupby("protocol"):
        counts = confusion(group["label"].to_numpy(), group["guess"].to_numpy(), len(classes))
        panels[f"{protocol} ({group['run_id'].nunique()} runs)"] = counts / np.maximum(
            1, counts.sum(axis=1, keepdims=True)
        )
    return figures.heat_maps(
        panels,
        classes,
        [name.replace(" ", "\n") for name in classes],
        "share of the true class's windows",
        "True activity (rows) against predicted activity",
        digits=2,
    )


def subsets(table: pd.DataFrame) -> Figure:
    """Macro F1 with each of the 15 subsets there, one panel a protocol, one column a setting."""
    settings = list(dict.fromkeys(setting for _, setting in table.columns))
    panels = {
        str(protocol): np.stack([_column(table, (protocol, setting)) for setting in settings], axis=1)
        for protocol in dict.fromkeys(protocol for protocol, _ in table.columns)
    }
    return figures.heat_maps(
        panels,
        list(table.index),
        [_short(setting) for setting in settings],
        "macro F1",
        "Modalities that are there: mean over seeds",
        digits=2,
        width=max(3.6, 1.1 * len(settings)),
    )


def _column(table: pd.DataFrame, key: tuple[object, str]) -> np.ndarray:
    return table[key].to_numpy() if key in table.columns else np.full(len(table), np.nan)


def ablation(table: pd.DataFrame, protocol: str) -> Figure:
    """What each modality is worth to each setting."""
    series = {
        str(setting): _estimate(group.set_index("modality").reindex(NAMES), "lost_without")
        for setting, group in table.groupby("setting")
    }
    return figures.intervals(
        list(NAMES), series, "macro F1 lost without it", f"Without one modality ({protocol}): t interval over seeds"
    )


def shares(table: pd.DataFrame) -> Figure:
    """Attention over modalities by true class."""
    panels = {str(setting): group.set_index("label")[list(SHARES)] for setting, group in table.groupby("setting")}
    labels = list(dict.fromkeys(table["label"]))
    return figures.heat_maps(
        {name: panel.reindex(labels).to_numpy() for name, panel in panels.items()},
        labels,
        NAMES,
        "share of the attention",
        "Attention over modalities by true activity",
        digits=2,
    )


def subjects(table: pd.DataFrame, protocol: str) -> Figure:
    """Macro F1 of each test subject."""
    wide = table.pivot(index="subject", columns="setting", values="mean")
    return figures.heat_maps(
        {protocol: wide.to_numpy()},
        [str(label) for label in wide.index],
        [_short(str(label)) for label in wide.columns],
        "macro F1",
        "By test subject: mean over seeds",
        digits=2,
        width=max(4.0, 1.1 * wide.shape[1]),
    )


def position(table: pd.DataFrame, protocol: str) -> Figure:
    """Accuracy by the distance from the end of a bout."""
    names = [bin_name(place) for place in range(len(EDGES_S) - 1)]
    names = [name for name in names if name in set(table["edge_s"])]
    series = {
        str(setting): _estimate(group.set_index("edge_s").reindex(names), "accuracy")
        for setting, group in table.groupby("setting")
    }
    return figures.intervals(
        names,
        series,
        "accuracy",
        f"Seconds from the nearer end of the bout ({protocol}): 95 % over windows",
        neutral=None,
    )


def _estimate(table: pd.DataFrame, value: str) -> Estimate:
    return Estimate(*(table[name].to_numpy(float) for name in (value, "low", "high")))

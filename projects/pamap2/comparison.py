"""From the answers of runs to tables: each a mean over seeds, with the spread that seeds have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

import labtrail as lt
from labtrail.statistics import bootstrap_mean, t_interval
from projects.pamap2.evaluate import macro_f1
from projects.pamap2.evidence import SHARES
from projects.pamap2.inputs import NAMES, subset_names

# Seconds between a window and the nearer end of its bout.
EDGES_S = (0.0, 1.0, 2.5, 5.0, 10.0, 20.0, np.inf)


def protocol_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of each setting under each protocol, mean over seeds with a t interval, the baseline beside it.

    Args:
        runs: columns protocol, setting, test/macro_f1, test/accuracy, test/ece, test/baseline_extratrees_macro_f1.
    """
    rows = []
    for (protocol, setting), group in lt.grouped(runs, ["protocol", "setting"]):
        score = t_interval(group["test/macro_f1"].to_numpy(float))
        rows.append(
            {
                "protocol": protocol,
                "setting": setting,
                "seeds": len(group),
                "macro_f1": float(score.value),
                "low": float(score.low),
                "high": float(score.high),
                "accuracy": group["test/accuracy"].mean(),
                "ece": group["test/ece"].mean(),
                "baseline_extratrees_macro_f1": group["test/baseline_extratrees_macro_f1"].mean(),
                "run_ids": " ".join(group["run_id"]),
            }
        )
    return pd.DataFrame(rows)


def subset_table(subsets: pd.DataFrame) -> pd.DataFrame:
    """Macro F1 of every subset (rows) by protocol and setting (columns), mean over seeds."""
    wide = subsets.pivot_table(index="subset", columns=["protocol", "setting"], values="macro_f1", aggfunc="mean")
    order = subsets.drop_duplicates("subset")["subset"]
    return wide.loc[list(order)]


def ablation_table(subsets: pd.DataFrame) -> pd.DataFrame:
    """What a modality is worth: macro F1 lost without it, and what it reaches alone; mean over seeds, t interval."""
    rows = []
    keys = ["protocol", "setting"]
    for (protocol, setting), group in lt.grouped(subsets, keys):
        wide = group.pivot(index="run_id", columns="subset", values="macro_f1")
        whole = wide[subset_names([True] * len(NAMES))]
        for name in NAMES:
            without = subset_names([other != name for other in NAMES])
            lost = t_interval((whole - wide[without]).to_numpy())
            rows.append((protocol, setting, name, *map(float, lost), wide[name].mean(), len(wide)))
    return pd.DataFrame(rows, columns=[*keys, "modality", "lost_without", "low", "high", "alone", "seeds"])


def share_table(windows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Mean share of each modality in the decision by setting and true class; only where a fusion learns its shares."""
    learnt = windows.groupby("setting")[list(SHARES)].transform("std").max(axis=1) > 0
    weighted = windows[learnt]
    means = weighted.groupby(["setting", "label"])[list(SHARES)].mean().reset_index()
    return means.assign(label=[classes[label] for label in means["label"]])


def subject_table(windows: pd.DataFrame) -> pd.DataFrame:
    """Macro F1 of each test subject by protocol and setting, mean over seeds."""
    keys = ["protocol", "setting", "subject", "run_id"]
    scores = [
        (*key, macro_f1(group["label"].to_numpy(), group["guess"].to_numpy()))
        for key, group in lt.grouped(windows, keys)
    ]
    frame = pd.DataFrame(scores, columns=[*keys, "macro_f1"])
    return frame.groupby(keys[:3])["macro_f1"].agg(["mean", "min", "max"]).reset_index()


def position_table(windows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by the distance from the end of a bout, mean over seeds; the interval resamples windows."""
    bins = pd.cut(windows["edge_s"], list(EDGES_S), right=False, labels=False)
    rows = []
    for (protocol, setting, place), group in lt.grouped(windows.assign(bin=bins), ["protocol", "setting", "bin"]):
        correct = (group["guess"] == group["label"]).astype(float)
        by_window = correct.groupby([group["fold"], group["subject"], group["start"]]).mean().to_numpy()
        interval = bootstrap_mean(by_window)
        rows.append((protocol, setting, bin_name(int(place)), len(by_window), *map(float, interval)))
    return pd.DataFrame(rows, columns=["protocol", "setting", "edge_s", "windows", "accuracy", "low", "high"])


def bin_name(place: int) -> str:
    """``2.5-5`` for a bin of ``EDGES_S``."""
    low, high = EDGES_S[place], EDGES_S[place + 1]
    return f"{low:g}+" if np.isinf(high) else f"{low:g}-{high:g}"

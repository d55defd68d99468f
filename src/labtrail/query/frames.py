"""Frames of runs: what settings they differ in, which are repeats, and groups of rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from labtrail.statistics import bootstrap_mean, holm, paired_t, t_interval
from labtrail.store import contract


def grouped(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """(values of the keys, rows that have them), by rising values; two keys or more."""
    for key, group in frame.groupby(list(keys), sort=True):
        assert isinstance(key, tuple)
        yield key, group


def varying(runs: pd.DataFrame, apart: Sequence[str] = ("cfg.seed",)) -> list[str]:
    """The config keys (``cfg.model.width``) on which runs differ, in order of name, but for those named.

    A key that older runs do not have is none.
    """
    keys = sorted(name for name in runs if str(name).startswith(contract.CONFIG_PREFIX) and name not in apart)
    return [key for key in keys if runs[key].nunique() > 1]


def newest_of_each(runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs that did the same work (``--again``) only the newest: repeats are no further seeds.

    Runs without a key are different work each.
    """
    ordered = runs.sort_values("started")
    keys = ordered[contract.KEY] if contract.KEY in ordered else pd.Series(pd.NA, ordered.index)
    return ordered[~keys.duplicated(keep="last") | keys.isna()]


def group_names(runs: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """A name for each run by its values of some config keys: ``late, width=32``; words stand without their key."""
    parts = {
        key: [value if _is_word(value) else f"{key.rpartition('.')[2]}={value}" for value in runs[key]] for key in keys
    }
    rows = zip(*parts.values(), strict=True) if keys else [()] * len(runs)
    return pd.Series([", ".join(row) for row in rows], index=runs.index, dtype=object)


def _is_word(value: object) -> bool:
    """Whether a value tells by itself what it is; a switch does not."""
    return str(value).isidentifier() and value not in ("True", "False", "None")


def over_seeds(runs: pd.DataFrame, metrics: Sequence[str], by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """What repeats of the same settings say together: a row for each group and metric.

    Args:
        runs: as ``Query.runs``.
        metrics: columns; a run without a value does not count for that metric.
        by: columns whose equal values make a group.
        level: coverage of the intervals.

    Returns:
        The columns of ``by``, then metric, runs, mean, deviation (NaN for one run), low and high (Student's t),
        boot_low and boot_high (percentile bootstrap), and run_ids with spaces between them.
    """
    rows = []
    for key, group in _groups(runs, by):
        for metric in metrics:
            known = group[group[metric].notna()] if metric in group else group.iloc[:0]
            if len(known):
                values = known[metric].to_numpy(float)
                rows.append((*key, metric, *_spread(values, level), " ".join(known["run_id"])))
    names = ["metric", "runs", "mean", "deviation", "low", "high", "boot_low", "boot_high", "run_ids"]
    return pd.DataFrame(rows, columns=[*by, *names])


def _spread(values: np.ndarray, level: float) -> tuple[float, ...]:
    interval, boot = t_interval(values, level), bootstrap_mean(values, level=level)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    ends = [float(bound) for bound in (interval.low, interval.high, boot.low, boot.high)]
    return len(values), float(interval.value), deviation, *ends


def paired_differences(
    runs: pd.DataFrame, metric: str, by: str, against: str, pair: str = "cfg.seed", level: float = 0.95
) -> pd.DataFrame:
    """How each group differs from one of them, over the seeds that both have.

    Args:
        runs: as ``Query.runs``.
        metric: column of the values.
        by: column of group names.
        against: the group that the others are compared with.
        pair: column that makes two runs a pair; of several runs of a group with one value the mean counts.
        level: coverage of the interval.

    Returns:
        Columns group, pairs, difference, low, high (Student's t), p (paired t test), p_holm (corrected for all groups).
    """
    paired = runs.dropna(subset=[metric]) if pair in runs else runs.iloc[:0].assign(**{pair: pd.NA})
    wide = paired.pivot_table(index=pair, columns=by, values=metric, aggfunc="mean")
    rows = []
    for name in wide.columns if against in wide else ():
        difference = (wide[name] - wide[against]).dropna().to_numpy(float)
        if name != against and len(difference):
            interval = t_interval(difference, level)
            ends = float(interval.value), float(interval.low), float(interval.high)
            rows.append((name, len(difference), *ends, paired_t(difference)))
    table = pd.DataFrame(rows, columns=["group", "pairs", "difference", "low", "high", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy(float)))


def _groups(runs: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """As ``grouped``, for any number of keys, in order of first appearance; missing values are a value, too."""
    if not by:
        yield (), runs
        return
    for key, group in runs.groupby(list(by), sort=False, dropna=False):
        yield (key if isinstance(key, tuple) else (key,)), group

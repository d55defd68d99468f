"""Frames of runs: what settings they differ in, which are repeats, and groups of rows."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from labtrail import contract


def grouped(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """(values of the keys, rows that have them), by rising values; two keys or more."""
    for key, own in frame.groupby(list(keys), sort=True):
        assert isinstance(key, tuple)
        yield key, own


def varying(runs: pd.DataFrame, apart: Sequence[str] = ("cfg.seed",)) -> list[str]:
    """The config keys (``cfg.model.width``) on which runs differ, in order of name, but for those named.

    A key that older runs do not have is none.
    """
    keys = sorted(name for name in runs if str(name).startswith(contract.CONFIG_PREFIX) and name not in apart)
    return [key for key in keys if runs[key].nunique() > 1]


def newest_of_each(runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs that did the same work (``--again``) only the newest: repeats are no further seeds."""
    return runs.sort_values("started").drop_duplicates(contract.KEY, keep="last")


def group_names(runs: pd.DataFrame, keys: Sequence[str]) -> pd.Series:
    """A name for each run by its values of some config keys: ``late, width=32``; words stand without their key."""
    parts = {
        key: [value if str(value).isidentifier() else f"{key.rpartition('.')[2]}={value}" for value in runs[key]]
        for key in keys
    }
    rows = zip(*parts.values(), strict=True) if keys else [()] * len(runs)
    return pd.Series([", ".join(row) for row in rows], index=runs.index, dtype=object)

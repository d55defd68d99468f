"""The task pamap2-prepare: raw recordings to one array with an index, with a report on the data's quality."""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import labtrail as lt
from projects.pamap2.build import build
from projects.pamap2.config import SYNTHETIC, PrepareConfig
from projects.pamap2.dataset import INDEX, Dataset, bout_of_rows, load_dataset
from projects.pamap2.export import write_exports
from projects.pamap2.folds import make_folds
from projects.pamap2.quality import bout_table, quality_figures
from projects.pamap2.synthetic import write_recordings


def source_path(config: PrepareConfig) -> Path:
    """Where the recordings are; generates the synthetic ones."""
    return write_recordings(config.synthetic) / "Protocol" if config.source == SYNTHETIC else Path(config.source)


def sources(config: PrepareConfig) -> Sequence[lt.DataSource]:
    """The zip, or the folder by the digests of its files."""
    path = source_path(config)
    if path.is_dir():
        files = sorted(path.rglob("*.dat"))
        digest = lt.fingerprint([(str(file.relative_to(path)), lt.sha256_of(file)) for file in files])
    elif path.is_file():
        digest = lt.sha256_of(path)
    else:
        raise lt.DataError(f"{path}: expected the data set's zip or a folder of .dat files, found nothing there")
    return [lt.DataSource(path.name, "source", str(path), digest)]


def missing(config: PrepareConfig) -> bool:
    """Whether the prepared data are not where a finished run has put them."""
    return not (config.output / INDEX).is_file()


def prepare(config: PrepareConfig, _run: lt.Run) -> Generator[lt.Record]:
    """One Record with the counts, tables and figures of the data set that is then in place."""
    gaps = build(source_path(config), config.output, config.hr.median, partial(write_exports, config))
    dataset = load_dataset(config.output)
    bouts = bout_of_rows(dataset.seconds, dataset.subjects, dataset.activities)
    files: dict[str, Any] = {
        "tables/quality.csv": gaps,
        "tables/bouts.csv": bout_table(dataset, bouts),
        "tables/split.csv": proof_table(dataset, config),
        **quality_figures(dataset, bouts, gaps),
    }
    yield lt.Record(0, lt.named("data", _counts(dataset, bouts, gaps)), files)


def proof_table(dataset: Dataset, config: PrepareConfig) -> pd.DataFrame:
    """Windows and activities of each split in each fold; folds are proven free of leaks as they are made.

    Columns fold, split, windows, activities.
    """
    rows = []
    for fold in make_folds(dataset, config.split, config.seed):
        for name in ("train", "validation", "test"):
            starts = getattr(fold, name)
            rows.append((fold.name, name, len(starts), len(np.unique(dataset.activities[starts]))))
    return pd.DataFrame(rows, columns=["fold", "split", "windows", "activities"])


def _counts(dataset: Dataset, bouts: np.ndarray, gaps: pd.DataFrame) -> dict[str, float]:
    sums = gaps.groupby("group")[["missing", "rows"]].sum()
    return {
        "rows": float(len(dataset)),
        "subjects": float(len(np.unique(dataset.subjects))),
        "activities": float(len(np.unique(dataset.activities))),
        "bouts": float(bouts[-1] + 1),
        **{f"missing_{group}": float(row["missing"] / row["rows"]) for group, row in sums.iterrows()},
    }

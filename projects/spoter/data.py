"""The three splits of a run, checked together: labels, classes, and what to tell about them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import labtrail as lt
from projects.spoter.clips import Clips, load_clips
from projects.spoter.config import SYNTHETIC, DataConfig, SpoterConfig
from projects.spoter.synthetic import write_split

_log = logging.getLogger("labtrail")

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """One split with its labels counted from 0.

    Attributes:
        name: ``train``, ``validation`` or ``test``.
        clips: the raw clips.
        labels: shape (clips,), int64, 0 <= label < classes.
    """

    name: str
    clips: Clips
    labels: np.ndarray


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    Attributes:
        train, validation, test: the splits.
        classes: number of classes.
        first_label: the number that the files give to the first class, 0 or 1.
    """

    train: Split
    validation: Split
    test: Split
    classes: int
    first_label: int


def load_splits(config: DataConfig) -> Splits:
    """Loads and checks the three splits.

    Whether labels count from 0 or 1 is read off the train split; the others must agree.

    Raises:
        DataError: a file is missing or malformed, or a label is out of range; names file and row.
    """
    clips = {name: load_clips(_path(name, config), config.label_column) for name in SPLITS}
    train = clips["train"].labels
    first = config.first_label if config.first_label is not None else int(train.min() != 0)
    classes = config.classes or int(train.max()) - first + 1
    if classes < 2 and train.min() == train.max():
        raise lt.DataError(
            f"{clips['train'].path}: only one class in column {config.label_column}; nothing to tell apart"
        )
    splits = {
        name: Split(name, split_clips, _from_zero(split_clips, first, classes, config))
        for name, split_clips in clips.items()
    }
    return Splits(**splits, classes=classes, first_label=first)


def _path(split: str, config: DataConfig) -> Path:
    name = getattr(config, split)
    return write_split(split, config.synthetic) if name == SYNTHETIC else Path(name)


def _from_zero(clips: Clips, first: int, classes: int, config: DataConfig) -> np.ndarray:
    labels = clips.labels - first
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        row = int(wrong[0])
        raise lt.DataError(
            f"{clips.path}: row {row + 1}, column {config.label_column}: label {clips.labels[row]} is out of range; "
            f"the train split counts from {first}, so {classes} classes are {first}..{first + classes - 1}"
        )
    return labels


def sources(config: SpoterConfig) -> Sequence[lt.DataSource]:
    """The data sets of a run, checked, with their digests."""
    splits = load_splits(config.data)
    _log.info("%d classes; labels count from %d", splits.classes, splits.first_label)
    return [
        source_of(split, splits, getattr(config.data, split.name))
        for split in (splits.train, splits.validation, splits.test)
    ]


def source_of(split: Split, splits: Splits, name: str) -> lt.DataSource:
    """How a run names one split; ``name`` is what the config calls it."""
    profile = {
        "clips": len(split.clips),
        "classes": splits.classes,
        "frames": int(split.clips.lengths.sum()),
        "labels from": splits.first_label,
    }
    label = f"synthetic-{split.name}" if name == SYNTHETIC else Path(name).name.split(".")[0]
    return lt.DataSource(label, split.name, split.clips.path, split.clips.digest, profile)

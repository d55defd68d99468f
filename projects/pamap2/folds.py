"""The folds of a run: which windows train, validate and test, under the split's protocol."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import labtrail as lt
from projects.pamap2.config import SplitConfig
from projects.pamap2.dataset import Dataset, bout_of_rows
from projects.pamap2.leakage import leaks
from projects.pamap2.schema import ACTIVITIES
from projects.pamap2.splits import (
    NAMES,
    TEST,
    TRAIN,
    VALIDATION,
    contiguous,
    leave_subjects_out,
    shards_of,
    whole_shards,
)
from projects.pamap2.windows import usable_rows, window_starts

# Subject 109 has one activity only: it trains, and is never left out.
_TRAIN_ONLY = 109


@dataclass(frozen=True)
class Fold:
    """One division of the data.

    Attributes:
        name: the protocol, or the subject left out.
        train, validation, test: first rows of the windows, int64.
        train_rows: rows that training may know of, for statistics; shape (N,), bool.
        unanswerable: test windows left out since no training window has their activity.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    train_rows: np.ndarray
    unanswerable: int = 0

    @property
    def weights_name(self) -> str:
        """Artifact of a run that holds the fold's weights."""
        return f"checkpoints/fold_{self.name}.safetensors"


@dataclass(frozen=True)
class Classes:
    """The activities in the data, as class indices.

    Attributes:
        ids: activity id of each class, rising.
        names: what they are called.
        labels: class of each row, shape (N,), int64.
    """

    ids: list[int]
    names: list[str]
    labels: np.ndarray


def classes_of(dataset: Dataset) -> Classes:
    """Classes in the order of the activity ids."""
    ids, labels = np.unique(dataset.activities, return_inverse=True)
    return Classes(ids.tolist(), [ACTIVITIES[int(id_)] for id_ in ids], labels.astype(np.int64))


def make_folds(dataset: Dataset, split: SplitConfig, seed: int) -> list[Fold]:
    """The folds of a protocol, each proven free of leaks.

    Raises:
        DataError: subjects are missing, a split would be empty, or windows of two splits come too close.
    """
    bouts = bout_of_rows(dataset.seconds, dataset.subjects, dataset.activities)
    shards = shards_of(dataset.subjects, dataset.activities, bouts)
    window, guard = split.window, split.guard_rows
    if split.protocol == "contiguous":
        places = {"contiguous": contiguous(shards, split.shares, window, guard)}
    elif split.protocol == "whole_shards":
        places = {"whole_shards": whole_shards(shards, split.shares, seed)}
    else:
        subjects = [106] if split.protocol == "subject106" else _tested(dataset, split.test_subjects)
        places = {
            str(subject): leave_subjects_out(shards, [subject], split.shares, window, guard) for subject in subjects
        }
    return [_fold(name, windows, bouts, dataset.activities, split) for name, windows in places.items()]


def _tested(dataset: Dataset, asked: Sequence[int]) -> list[int]:
    return sorted(set(asked)) or [int(subject) for subject in np.unique(dataset.subjects) if subject != _TRAIN_ONLY]


def _fold(name: str, places: np.ndarray, bouts: np.ndarray, activities: np.ndarray, split: SplitConfig) -> Fold:
    usable = usable_rows(bouts, places, split.guard_rows, split.trim_s)
    windows = {
        place: window_starts(bouts, places, usable, place, split.window, split.step)
        for place in (TRAIN, VALIDATION, TEST)
    }
    for place, starts in windows.items():
        if not len(starts):
            raise lt.DataError(
                f"fold {name}: no {NAMES[place]} window of {split.window} rows; the recordings are too short for it: "
                "lower split.window, or split.trim_s"
            )
    if problems := leaks(bouts, windows, split.window):
        raise lt.DataError(f"fold {name}: {problems[0]}; raise split.guard to at least split.window ({split.window})")
    known = np.isin(activities[windows[TEST]], activities[windows[TRAIN]])
    test = windows[TEST][known]
    return Fold(name, windows[TRAIN], windows[VALIDATION], test, usable & (places == TRAIN), int((~known).sum()))

"""The prepared data: one array of all rows and an index beside it, in a folder that is replaced as a whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import labtrail as lt
from projects.pamap2.schema import LARGEST_STEP_S, SENSORS

FORMAT = "pamap2-1"
ROWS, SECONDS, SUBJECTS, LABELS = "rows.npy", "seconds.npy", "subjects.npy", "activities.npy"
INDEX = "index.json"
ARRAYS = (ROWS, SECONDS, SUBJECTS, LABELS)


@dataclass(frozen=True)
class Dataset:
    """All rows of all subjects, subject after subject, time rising within each.

    Attributes:
        values: sensors in the order of ``SENSORS``, shape (N, 52), float32, memory-mapped.
        seconds: shape (N,), float64.
        subjects: shape (N,), int16.
        activities: activity ids of the data set, shape (N,), int16.
        digest: sha-256 of the index, which holds those of the arrays.
        folder: where it lies.
        facts: what the index tells besides (how it was prepared).
    """

    values: np.ndarray
    seconds: np.ndarray
    subjects: np.ndarray
    activities: np.ndarray
    digest: str
    folder: Path
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.seconds)


def save_dataset(folder: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Writes the arrays and their index into an empty folder; the same input gives the same bytes.

    Args:
        folder: exists; nobody reads it yet.
        arrays: the four of ``ARRAYS``.
        facts: JSON-like, how the data were prepared.
    """
    digests = {}
    for name in ARRAYS:
        np.save(folder / name, np.ascontiguousarray(arrays[name]), allow_pickle=False)
        digests[name] = lt.sha256_of(folder / name)
    index = {"format": FORMAT, "sensors": list(SENSORS), "sha256": digests, **facts}
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True))


def load_dataset(folder: Path) -> Dataset:
    """Opens a prepared data set without reading its rows.

    Raises:
        DataError: it is not there, of another format, or incomplete.
    """
    path = folder / INDEX
    if not path.is_file():
        raise lt.DataError(
            f"{folder}: expected a prepared data set, found no {INDEX}; prepare one: "
            f"mlflow run . -e pamap2-prepare -P source=ZIP_OR_FOLDER -P output={folder}"
        )
    try:
        index = json.loads(path.read_text())
        if index["format"] != FORMAT:
            raise lt.DataError(f"{path}: expected format {FORMAT}, found {index['format']}; prepare the data again")
        arrays = {name: np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise lt.DataError(f"{folder}: damaged: {str(error).splitlines()[0]}; prepare the data again") from error
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) != 1:
        raise lt.DataError(f"{folder}: expected as many rows in every array, found {rows}; prepare the data again")
    return Dataset(arrays[ROWS], arrays[SECONDS], arrays[SUBJECTS], arrays[LABELS], lt.sha256_of(path), folder, index)


def bout_starts(seconds: np.ndarray, subjects: np.ndarray, activities: np.ndarray) -> np.ndarray:
    """Index of the first row of each bout: one subject, one activity, no step of more than 0.1 s; (bouts,), int64."""
    if not len(seconds):
        return np.zeros(0, dtype=np.int64)
    # Timestamps have two decimals: half of the last one separates 0.10 from 0.11 in floating point.
    gap = np.diff(seconds) > LARGEST_STEP_S + 0.005
    change = gap | (np.diff(subjects) != 0) | (np.diff(activities) != 0)
    return np.concatenate([[0], np.flatnonzero(change) + 1])


def bout_of_rows(seconds: np.ndarray, subjects: np.ndarray, activities: np.ndarray) -> np.ndarray:
    """Number of each row's bout, shape (N,), int64, rising from 0."""
    starts = bout_starts(seconds, subjects, activities)
    lengths = np.diff(np.concatenate([starts, [len(seconds)]]))
    return np.repeat(np.arange(len(starts)), lengths)

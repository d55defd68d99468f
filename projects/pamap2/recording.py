"""One subject's .dat file to arrays: parsed at once by Arrow, then checked; bad input is named by file and line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

import labtrail as lt
from projects.pamap2.schema import ACTIVITIES, COLUMNS, PLACES, SENSORS

_SUBJECT = re.compile(r"subject(\d{3})\.dat")
# Small blocks stay in the cache: larger ones parse half as fast.
_BLOCK_BYTES = 1 << 20
_LONGEST_VALUE = 40


@dataclass(frozen=True)
class Recording:
    """What one file holds.

    Attributes:
        subject: number of the person, 101 .. 109.
        seconds: time of each row, shape (n,), float64, rising.
        activities: label of each row, shape (n,), int16.
        values: sensors in the order of ``SENSORS``, shape (n, 52), float32; NaN where nothing was measured.
    """

    subject: int
    seconds: np.ndarray
    activities: np.ndarray
    values: np.ndarray


def subject_of(name: str) -> int:
    """The subject that a file name tells.

    Raises:
        DataError: it tells none.
    """
    match = _SUBJECT.search(name)
    if match is None:
        raise lt.DataError(f"{name}: expected a file name such as subject101.dat, found {name.rpartition('/')[2]!r}")
    return int(match[1])


def parse_recording(content: bytes, name: str) -> Recording:
    """Reads and checks one file.

    Args:
        content: its bytes, not compressed.
        name: for messages; ends in ``subjectNNN.dat``.

    Raises:
        DataError: names file, line, what was expected and what was found.
    """
    subject = subject_of(name)
    if not content.strip():
        raise lt.DataError(f"{name}: expected rows of {len(COLUMNS)} columns, found an empty file")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise lt.DataError(f"{name}: line {line}: expected text, found a NUL byte; the file is damaged, fetch it again")
    try:
        table = _parse(content)
    except pa.ArrowException as error:
        problem = next(_problems(content), f"not readable: {str(error).splitlines()[0]}")
        raise lt.DataError(f"{name}: {problem}") from error
    columns = [table.column(index).to_numpy() for index in range(len(COLUMNS))]
    recording = Recording(subject, columns[0], columns[1].astype(np.int16), _stacked(columns[2:]))
    _check(recording, name)
    return recording


def _stacked(columns: list[np.ndarray]) -> np.ndarray:
    values = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    for index, column in enumerate(columns):
        values[:, index] = column
    return values


def _parse(content: bytes) -> pa.Table:
    types = {**dict.fromkeys(SENSORS, pa.float32()), "timestamp": pa.float64(), "activity": pa.int64()}
    return arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(column_names=list(COLUMNS), block_size=_BLOCK_BYTES, use_threads=True),
        parse_options=arrow_csv.ParseOptions(delimiter=" ", ignore_empty_lines=False),
        convert_options=arrow_csv.ConvertOptions(column_types=types, null_values=[], strings_can_be_null=False),
    )


def _check(recording: Recording, name: str) -> None:
    for problem in (_bad_time(recording), _bad_activity(recording), _bad_sensor(recording)):
        if problem:
            raise lt.DataError(f"{name}: {problem}")


def _bad_time(recording: Recording) -> str:
    seconds = recording.seconds
    wrong = np.flatnonzero(~np.isfinite(seconds))
    if wrong.size:
        return f"line {wrong[0] + 1}: expected a time in seconds, found {seconds[wrong[0]]}"
    wrong = np.flatnonzero(np.diff(seconds) <= 0)
    if not wrong.size:
        return ""
    row = int(wrong[0]) + 1
    what = "a repeated timestamp" if seconds[row] == seconds[row - 1] else "a timestamp that goes back"
    return f"line {row + 1}: expected a time after {seconds[row - 1]:.2f} s, found {what}, {seconds[row]:.2f} s"


def _bad_activity(recording: Recording) -> str:
    wrong = np.flatnonzero(~np.isin(recording.activities, list(ACTIVITIES)))
    if not wrong.size:
        return ""
    valid = ", ".join(map(str, ACTIVITIES))
    return f"line {wrong[0] + 1}: expected an activity id ({valid}), found {recording.activities[wrong[0]]}"


def _bad_sensor(recording: Recording) -> str:
    values = recording.values
    infinite = np.flatnonzero(np.isinf(values).any(axis=1))
    if infinite.size:
        column = int(np.flatnonzero(np.isinf(values[infinite[0]]))[0])
        value = values[infinite[0], column]
        return f"line {infinite[0] + 1}: expected a finite number in {SENSORS[column]}, found {value}"
    measured = ~np.isnan(values)
    groups = {"heart rate": ["heart_rate"], **{f"IMU on the {place}": _of(place) for place in PLACES}}
    for group, names in groups.items():
        if not measured[:, [SENSORS.index(name) for name in names]].any():
            return f"lines 1 to {len(values)}: expected measurements of the {group}, found NaN in every line"
    return ""


def _of(place: str) -> list[str]:
    return [name for name in SENSORS if name.startswith(f"{place}_")]


def _problems(content: bytes) -> Iterator[str]:
    """What is wrong, line by line, for a file that Arrow has refused."""
    for number, line in enumerate(content.decode("utf-8", errors="replace").split("\n"), start=1):
        if not line and number > content.count(b"\n"):
            return
        fields = line.rstrip("\r").split(" ")
        if len(fields) != len(COLUMNS):
            last = " (the last line: a truncated file?)" if number > content.count(b"\n") else ""
            yield f"line {number}: expected {len(COLUMNS)} columns, found {len(fields) if line.strip() else 0}{last}"
            continue
        for name, text in zip(COLUMNS, fields, strict=True):
            if not _is_number(text, whole=name == "activity"):
                kind = "a whole number" if name == "activity" else "a number or NaN"
                yield f"line {number}: expected {kind} in {name}, found {text[:_LONGEST_VALUE]!r}"


def _is_number(text: str, whole: bool) -> bool:
    try:
        _ = int(text) if whole else float(text)
    except ValueError:
        return False
    return text == text.strip() and "_" not in text

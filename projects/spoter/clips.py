"""Skeleton clips: from a CSV of the release's form to arrays, through a columnar cache.

A row is a clip; each coordinate cell is a list of numbers written as text, one number a frame.
Arrow splits and casts whole columns at once. Only when that fails does a slow reader look for the
row, the column and the value to name.
"""

import csv
import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import labtrail as lt
from projects.spoter.skeleton import BODY, HAND, JOINT_COUNT

CACHE = Path("data/cache")

# How the columns of the left and the right hand are written.
_DIALECTS = (("_left", "_right"), ("_Left", "_Right"), ("_0", "_1"))
_OPTIONAL = ("neck_X", "neck_Y")
# Above the longest line of any known file: a row holds 108 lists.
_BLOCK_BYTES = 1 << 26
_LONGEST_VALUE = 60


@dataclass(frozen=True)
class Clips:
    """Clips of one file, their frames joined.

    Attributes:
        frames: shape (N, 54, 2), float64; fractions of the picture, a missing joint is (0, 0).
        lengths: shape (clips,), int64; frames per clip.
        labels: shape (clips,), int64; as written in the file.
        digest: sha-256 of the file.
        path: the file, for messages.
    """

    frames: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    digest: str
    path: str

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def starts(self) -> np.ndarray:
        """Index of each clip's first frame, shape (clips,)."""
        return np.cumsum(self.lengths) - self.lengths

    def clip(self, index: int) -> np.ndarray:
        """The frames of one clip, shape (T, 54, 2)."""
        start = self.starts[index]
        return self.frames[start : start + self.lengths[index]]


def load_clips(path: Path, label_column: str, cache: Path = CACHE) -> Clips:
    """The clips of a CSV file, parsed once and then memory-mapped.

    Args:
        path: ``.csv`` or ``.csv.gz``.
        label_column: name of the integer class column.
        cache: folder of the columnar copies; an entry belongs to one path, size and modification time, and to
            the code that has parsed it.

    Raises:
        DataError: the file is missing or malformed; names row, column and value.
    """
    if not path.is_file():
        raise lt.DataError(
            f"{path}: no such file; import it with 'mlflow run . -e fetch' or set data.* to your own CSV"
        )
    stat = path.stat()
    code = lt.code_fingerprint(parse_csv)
    identity = f"{code}|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{label_column}"
    entry = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.safetensors"
    cached = _read_cache(entry, path)
    if cached is not None:
        return cached
    clips = parse_csv(path, label_column)
    arrays = {"frames": clips.frames, "lengths": clips.lengths, "labels": clips.labels}
    lt.write_atomically(entry, save(arrays, metadata={"source": json.dumps([str(path), clips.digest])}))
    return clips


def _read_cache(entry: Path, path: Path) -> Clips | None:
    if not entry.is_file():
        return None
    try:
        with safe_open(entry, framework="numpy") as file:
            digest = json.loads(file.metadata()["source"])[1]
            return Clips(*(file.get_tensor(name) for name in ("frames", "lengths", "labels")), digest, str(path))
    except SafetensorError:
        return None


def parse_csv(path: Path, label_column: str) -> Clips:
    """Reads and checks a whole CSV file.

    Raises:
        DataError: as ``load_clips``.
    """
    if path.stat().st_size == 0:
        raise lt.DataError(f"{path}: the file is empty; expected a header and one row per clip")
    try:
        return _parse(path, label_column)
    except lt.DataError:
        raise
    except (pa.ArrowException, EOFError, OSError, ValueError) as error:
        problem = next(_problems(path, label_column), None)
        raise lt.DataError(problem or f"{path}: not readable as a skeleton CSV: {_first_line(error)}") from error


def _parse(path: Path, label_column: str) -> Clips:
    columns = _columns(header(path), path, label_column)
    present = [name for name in columns if name is not None]
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=[*present, label_column],
            column_types={**dict.fromkeys(present, pa.large_string()), label_column: pa.int64()},
        ),
    )
    if table.num_rows == 0:
        raise lt.DataError(f"{path}: no clips: the file has a header and nothing else")

    lengths: np.ndarray | None = None
    frames: np.ndarray | None = None
    for place, name in enumerate(columns):
        if name is None:
            continue
        values, own_lengths = _split(table.column(name).combine_chunks())
        if frames is None or lengths is None:
            lengths = own_lengths
            frames = np.zeros((int(lengths.sum()), 2 * JOINT_COUNT))
        if not np.array_equal(own_lengths, lengths) or not np.isfinite(values).all():
            raise ValueError(f"column {name}: ragged or not finite")
        frames[:, place] = values
    labels = table.column(label_column).to_numpy()
    if frames is None or lengths is None or lengths.min() == 0 or labels.dtype != np.int64:
        raise ValueError("an empty clip or a missing label")
    return Clips(frames.reshape(-1, JOINT_COUNT, 2), lengths, labels, lt.sha256_of(path), str(path))


def _split(cells: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Cells "[a, b, ...]" to their numbers, joined, float64, and the count of each cell, int64."""
    if cells.null_count:
        raise ValueError("an empty cell")
    bare = pc.call_function("utf8_trim_whitespace", [cells])
    for end, bracket in (("starts_with", "["), ("ends_with", "]")):
        if not pc.call_function("all", [pc.call_function(end, [bare], pc.MatchSubstringOptions(bracket))]).as_py():
            raise ValueError("a cell is not a list")
    inside = pc.call_function("utf8_slice_codeunits", [bare], pc.SliceOptions(1, -1))
    parts = pc.call_function("split_pattern", [inside], pc.SplitPatternOptions(","))
    numbers = pc.cast(pc.call_function("utf8_trim_whitespace", [parts.flatten()]), pa.float64())
    return numbers.to_numpy(zero_copy_only=False), np.diff(parts.offsets.to_numpy()).astype(np.int64)


def _open_text(path: Path):
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open("rt", encoding="utf-8", newline="")


def header(path: Path) -> list[str]:
    """The column names of a CSV file; a repeated one is an error."""
    with _open_text(path) as file:
        names = next(csv.reader(file), [])
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise lt.DataError(f"{path}: duplicate column {repeated[0]!r} in the header; keep one of them")
    return names


def _columns(names: list[str], path: Path, label_column: str) -> list[str | None]:
    """The header's name of each of the 108 coordinates, in the order of the array; None: read as zeros."""
    if label_column not in names:
        raise lt.DataError(f"{path}: no column {label_column!r}; set data.label_column (columns: {_shorten(names)})")
    known = set(names)
    spoken = [pair for pair in _DIALECTS if any(f"{HAND[0]}{side}_X" in known for side in pair)]
    if len(spoken) != 1:
        what = "mixes the dialects" if spoken else "unknown joint dialect: no hand columns in any of the forms"
        forms = ", ".join(f"{HAND[0]}{left}_X" for left, _ in (spoken or _DIALECTS))
        raise lt.DataError(f"{path}: {what} {forms}; rename the hand columns to one form")
    joints = [*BODY, *(f"{joint}{side}" for side in spoken[0] for joint in HAND)]
    columns = [f"{joint}_{axis}" for joint in joints for axis in "XY"]
    missing = [name for name in columns if name not in known and name not in _OPTIONAL]
    if missing:
        raise lt.DataError(
            f"{path}: {len(missing)} joint columns are missing, first {missing[0]!r}; see the README's list"
        )
    return [name if name in known else None for name in columns]


def _problems(path: Path, label_column: str) -> Iterator[str]:
    """What is wrong, in the order of the file, found cell by cell."""
    csv.field_size_limit(_BLOCK_BYTES)
    try:
        with _open_text(path) as file:
            reader = csv.reader(file)
            names = next(reader)
            columns = [name for name in _columns(names, path, label_column) if name is not None]
            for row, cells in enumerate(reader, start=1):
                if len(cells) != len(names):
                    yield f"{path}: row {row}: expected {len(names)} columns, found {len(cells)} (a truncated row?)"
                    continue
                yield from _row_problems(
                    f"{path}: row {row}", dict(zip(names, cells, strict=True)), columns, label_column
                )
    except (EOFError, OSError, UnicodeDecodeError, csv.Error) as error:
        yield f"{path}: damaged or cut off: {_first_line(error)}; fetch it again"


def _row_problems(where: str, row: dict[str, str], columns: list[str], label_column: str) -> Iterator[str]:
    frames = 0
    for name in columns:
        cell = row[name].strip()
        if not (cell.startswith("[") and cell.endswith("]")):
            yield f"{where}, column {name}: expected a list [x, x, ...], found {_shorten(cell)}"
            continue
        values = cell[1:-1].split(",")
        for frame, text in enumerate(values):
            if problem := _number_problem(text.strip()):
                yield f"{where}, column {name}, frame {frame}: {problem}"
        frames = frames or len(values)
        if len(values) != frames:
            yield f"{where}, column {name}: {len(values)} frames, but {columns[0]} has {frames} (ragged lists)"
    try:
        int(row[label_column])
    except ValueError:
        yield f"{where}, column {label_column}: expected an integer label, found {_shorten(row[label_column])}"


def _number_problem(text: str) -> str | None:
    try:
        value = float(text)
    except ValueError:
        return f"expected a number, found {_shorten(text)}"
    return None if math.isfinite(value) else f"{text} is not a coordinate; write 0 for a missing joint"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""What the classes are called: from a ``gloss`` column of the CSV files, or from a list."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

import labtrail as lt
from projects.spoter.clips import header

_COLUMN = "gloss"
_BLOCK_BYTES = 1 << 26


def load_glosses(
    files: Sequence[Path], label_column: str, first_label: int, classes: int, listed: Path | None = None
) -> list[str | None]:
    """The gloss of each class, None where nothing tells it.

    Args:
        files: skeleton CSVs whose ``gloss`` column is read, if they have one.
        label_column: their class column.
        first_label: the label of class 0.
        classes: number of classes.
        listed: a text file of lines ``label<TAB>gloss``; it takes precedence.

    Raises:
        DataError: the list is missing or malformed, or a class has two glosses; names the line.
    """
    names = read_list(listed) if listed is not None else {}
    for path in files if listed is None else ():
        _read_csv(path, label_column, names)
    return [names.get(first_label + index) for index in range(classes)]


def read_list(path: Path) -> dict[int, str]:
    """The glosses of a list, label -> gloss.

    Raises:
        DataError: the list is missing or malformed; names the line.
    """
    if not path.is_file():
        raise lt.DataError(f"{path}: no such list of glosses; give a file of lines 'label<TAB>gloss', or leave it out")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise lt.DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error
    names: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        label, _, gloss = (part.strip() for part in line.partition("\t"))
        if line.strip():
            if not label.isdecimal() or not gloss:
                raise lt.DataError(f"{path}: line {number}: expected 'label<TAB>gloss', found {line[:60]!r}")
            _note(names, int(label), gloss, f"{path}: line {number}")
    return names


def _note(names: dict[int, str], label: int, gloss: str, where: str) -> None:
    if names.setdefault(label, gloss) != gloss:
        raise lt.DataError(
            f"{where}: label {label} is {gloss!r} here and {names[label]!r} before; a class has one gloss"
        )


def _read_csv(path: Path, label_column: str, names: dict[int, str]) -> None:
    if _COLUMN not in header(path):
        return
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=[label_column, _COLUMN], column_types={label_column: pa.int64(), _COLUMN: pa.string()}
        ),
    )
    rows = zip(table[label_column].to_pylist(), table[_COLUMN].to_pylist(), strict=True)
    for row, (label, gloss) in enumerate(rows, start=1):
        if gloss and gloss.strip():
            _note(names, label, gloss.strip(), f"{path}: row {row}")

"""What the classes are called: from a ``gloss`` column of the CSV files, or from a list."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from labtrail.errors import DataError
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
        DataError: the list is missing or malformed; names the line.
    """
    names = _from_list(listed) if listed is not None else {}
    for path in files if not names else ():
        names |= _from_csv(path, label_column)
    return [names.get(first_label + index) for index in range(classes)]


def _from_list(path: Path) -> dict[int, str]:
    if not path.is_file():
        raise DataError(f"{path}: no such list of glosses; give a file of lines 'label<TAB>gloss', or leave it out")
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        label, _, gloss = line.partition("\t")
        if line.strip():
            if not label.strip().isdigit() or not gloss.strip():
                raise DataError(f"{path}: line {number}: expected 'label<TAB>gloss', found {line[:60]!r}")
            names[int(label)] = gloss.strip()
    return names


def _from_csv(path: Path, label_column: str) -> dict[int, str]:
    if _COLUMN not in header(path):
        return {}
    table = arrow_csv.read_csv(
        path,
        read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
        convert_options=arrow_csv.ConvertOptions(include_columns=[label_column, _COLUMN]),
    )
    labels = pc.cast(table[label_column], "int64").to_pylist()
    return dict(zip(labels, map(str, table[_COLUMN].to_pylist()), strict=True))

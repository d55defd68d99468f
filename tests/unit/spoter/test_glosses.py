"""Names of the classes: from the CSV's own column, from a list, or none."""

from pathlib import Path

import pytest

from labtrail.errors import DataError
from projects.spoter.glosses import load_glosses


def csv(folder: Path, rows: list[str], name: str = "a.csv", column: str = "gloss") -> Path:
    path = folder / name
    path.write_text("\n".join([f"labels,{column}", *rows]) + "\n")
    return path


def test_glosses_come_from_any_of_the_files(tmp_path: Path) -> None:
    files = [csv(tmp_path, ["1,book", "2,"]), csv(tmp_path, ["2, drink ", "1,book"], "b.csv")]
    assert load_glosses(files, "labels", 1, 3) == ["book", "drink", None]


def test_empty_cells_and_files_without_the_column_name_nothing(tmp_path: Path) -> None:
    files = [csv(tmp_path, ["1,", "2,"]), csv(tmp_path, ["1,x"], "b.csv", column="note")]
    assert load_glosses(files, "labels", 1, 2) == [None, None]


def test_a_class_with_two_glosses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv: row 2: label 1 is 'cup' here and 'book' before"):
        load_glosses([csv(tmp_path, ["1,book", "1,cup"])], "labels", 1, 1)


def test_a_list_takes_precedence(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes("\ufeff0\tbook\n1\tdrink\n\n".encode())
    assert load_glosses([csv(tmp_path, ["0,other"])], "labels", 0, 3, listed) == ["book", "drink", None]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"1 book\n", "line 1: expected 'label<TAB>gloss', found '1 book'"),
        ("²\tbook\n".encode(), "line 1: expected"),
        (b"0\tbook\n1\t\n", "line 2: expected"),
        (b"\xff\xfe0\t", "not UTF-8 text"),
    ],
)
def test_malformed_lists_are_named(content: bytes, problem: str, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        load_glosses([], "labels", 0, 1, listed)


def test_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such list of glosses"):
        load_glosses([], "labels", 0, 1, tmp_path / "gone.txt")

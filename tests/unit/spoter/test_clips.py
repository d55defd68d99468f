"""Reading skeleton CSVs: equal to reading cell by cell, and clear about what is wrong."""

import ast
import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from labtrail.errors import DataError
from projects.spoter.clips import load_clips, parse_csv
from projects.spoter.config import SyntheticConfig
from projects.spoter.skeleton import JOINTS
from projects.spoter.synthetic import generate, to_csv

SMALL = SyntheticConfig(classes=3, train=6, validation=3, test=3, frames=5)


@pytest.fixture
def text() -> str:
    return to_csv(*generate("train", SMALL))


def write(folder: Path, text: str, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def edited(text: str, edit: Callable[[list[list[str]]], None]) -> str:
    """The CSV after an edit of its rows; row 0 is the header."""
    rows = list(csv.reader(io.StringIO(text)))
    edit(rows)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def test_equals_literal_parsing_bit_for_bit(tmp_path: Path, text: str) -> None:
    clips = parse_csv(write(tmp_path, text), "labels")
    names = [name.replace("_0", "_left").replace("_1", "_right") for name in JOINTS]
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = [
        np.array([ast.literal_eval(row[f"{name}_{axis}"]) for name in names for axis in "XY"]).T for row in rows
    ]
    np.testing.assert_array_equal(clips.frames, np.concatenate(expected).reshape(-1, 54, 2))
    np.testing.assert_array_equal(clips.lengths, [len(clip) for clip in expected])
    np.testing.assert_array_equal(clips.labels, [int(row["labels"]) for row in rows])


def test_round_trip_of_generated_clips(tmp_path: Path, text: str) -> None:
    clips, labels = generate("train", SMALL)
    read = parse_csv(write(tmp_path, text), "labels")
    np.testing.assert_array_equal(read.frames, np.concatenate(clips))
    np.testing.assert_array_equal(read.labels - 1, labels)
    np.testing.assert_array_equal(read.clip(2), clips[2])


@pytest.mark.parametrize("dialect", [("_left", "_right"), ("_Left", "_Right"), ("_0", "_1")])
def test_dialects_of_hand_columns(dialect: tuple[str, str], tmp_path: Path, text: str) -> None:
    def rename(rows: list[list[str]]) -> None:
        rows[0] = [name.replace("_left_", f"{dialect[0]}_").replace("_right_", f"{dialect[1]}_") for name in rows[0]]

    own = parse_csv(write(tmp_path, edited(text, rename)), "labels")
    np.testing.assert_array_equal(own.frames, parse_csv(write(tmp_path, text, "b.csv"), "labels").frames)


def test_gzip_spaces_and_missing_neck(tmp_path: Path, text: str) -> None:
    def change(rows: list[list[str]]) -> None:
        keep = [place for place, name in enumerate(rows[0]) if not name.startswith("neck_")]
        rows[:] = [[row[place] for place in keep] for row in rows]
        rows[1][0] = rows[1][0].replace(", ", " ,  ").replace("[", " [ ")

    path = tmp_path / "clips.csv.gz"
    path.write_bytes(gzip.compress(edited(text, change).encode()))
    read, whole = parse_csv(path, "labels"), parse_csv(write(tmp_path, text), "labels")
    neck = JOINTS.index("neck")
    assert (read.frames[:, neck] == 0).all()
    np.testing.assert_array_equal(np.delete(read.frames, neck, 1), np.delete(whole.frames, neck, 1))


def test_cache_gives_the_same_and_follows_the_file(tmp_path: Path, text: str) -> None:
    path, cache = write(tmp_path, text), tmp_path / "cache"
    first = load_clips(path, "labels", cache)
    again = load_clips(path, "labels", cache)
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.digest == again.digest
    assert len(list(cache.iterdir())) == 1
    path.write_text("\n".join(text.splitlines()[:3]) + "\n")
    assert len(load_clips(path, "labels", cache)) == 2


def test_damaged_cache_entry_is_made_anew(tmp_path: Path, text: str) -> None:
    path, cache = write(tmp_path, text), tmp_path / "cache"
    load_clips(path, "labels", cache)
    next(cache.iterdir()).write_bytes(b"damaged")
    assert len(load_clips(path, "labels", cache)) == 6
    assert next(cache.iterdir()).stat().st_size > 100


def _set(row: int, column: str, value: str) -> Callable[[list[list[str]]], None]:
    def edit(rows: list[list[str]]) -> None:
        rows[row][rows[0].index(column)] = value

    return edit


def _cut(rows: list[list[str]]) -> None:
    rows[2] = rows[2][:50]


def _repeat(rows: list[list[str]]) -> None:
    for row in rows:
        row.append(row[0])


def _foreign_hands(rows: list[list[str]]) -> None:
    rows[0] = [name.replace("_left_", "_L_").replace("_right_", "_R_") for name in rows[0]]


def _mixed_hands(rows: list[list[str]]) -> None:
    rows[0] = [name.replace("_left_", "_0_") for name in rows[0]]


def _no_nose(rows: list[list[str]]) -> None:
    rows[0][rows[0].index("nose_X")] = "snout_X"


BAD = {
    "truncated row": (_cut, ("row 2", "expected 109 columns, found 50")),
    "ragged lists": (_set(3, "rightElbow_Y", "[0.5, 0.5]"), ("row 3, column rightElbow_Y: 2 frames, but",)),
    "NaN": (_set(1, "nose_X", "[nan, 0.5]"), ("row 1, column nose_X, frame 0: nan",)),
    "infinite": (_set(1, "nose_X", "[0.5, inf]"), ("row 1, column nose_X, frame 1: inf",)),
    "not a number": (_set(4, "wrist_left_X", "[0.5, O.5]"), ("row 4, column wrist_left_X, frame 1", "'O.5'")),
    "not a list": (_set(2, "nose_Y", "0.5"), ("row 2, column nose_Y: expected a list", "'0.5'")),
    "empty cell": (_set(2, "nose_Y", ""), ("row 2, column nose_Y: expected a list",)),
    "empty list": (_set(2, "nose_X", "[]"), ("row 2, column nose_X, frame 0: expected a number",)),
    "label": (_set(5, "labels", "book"), ("row 5, column labels: expected an integer label, found 'book'",)),
    "missing label": (_set(5, "labels", ""), ("row 5, column labels",)),
    "duplicate column": (_repeat, ("duplicate column 'nose_X'",)),
    "unknown dialect": (_foreign_hands, ("unknown joint dialect", "wrist_left_X")),
    "mixed dialects": (_mixed_hands, ("mixes the dialects",)),
    "missing joint": (_no_nose, ("'nose_X'", "missing")),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_file_is_refused_in_one_line(what: str, tmp_path: Path, text: str) -> None:
    edit, wanted = BAD[what]
    path = write(tmp_path, edited(text, edit))
    with pytest.raises(DataError) as caught:
        load_clips(path, "labels", tmp_path / "cache")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}:")
    for part in wanted:
        assert part in message
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [(b"", "the file is empty"), (b"nose_X,labels\n", "unknown joint dialect"), (b"\x00\xff\xfe", "clips.csv: ")],
)
def test_what_is_no_skeleton_csv_is_refused(content: bytes, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=wanted):
        load_clips(path, "labels", tmp_path / "cache")


def test_header_without_clips_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="no clips"):
        parse_csv(write(tmp_path, text.splitlines()[0] + "\n"), "labels")


def test_gzip_that_is_cut_off_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clips.csv.gz"
    path.write_bytes(gzip.compress(text.encode())[:-2000])
    with pytest.raises(DataError, match="damaged or cut off"):
        parse_csv(path, "labels")


def test_missing_file_and_column_name_the_next_step(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="no such file; import it"):
        load_clips(tmp_path / "absent.csv", "labels", tmp_path / "cache")
    with pytest.raises(DataError, match=r"no column 'gloss'; set data.label_column"):
        load_clips(write(tmp_path, text), "gloss", tmp_path / "cache")

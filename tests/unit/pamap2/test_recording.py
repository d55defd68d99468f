"""Recordings are read to the digit, and every kind of bad input is named with line, expected and found."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labtrail.errors import DataError
from projects.pamap2.config import SyntheticConfig
from projects.pamap2.recording import parse_recording
from projects.pamap2.schema import COLUMNS, SENSORS
from projects.pamap2.source import open_recordings
from projects.pamap2.synthetic import generate, to_text, write_recordings

NAME = "Protocol/subject101.dat"
SMALL = SyntheticConfig(subjects=2, activities=(1, 4), bouts=1, bout_s=3)


def text(rows: int = 30) -> str:
    return "\n".join(to_text(generate(101, SMALL)).splitlines()[:rows]) + "\n"


def changed(line: int, column: int, value: str) -> bytes:
    lines = text().splitlines()
    fields = lines[line - 1].split(" ")
    fields[column] = value
    lines[line - 1] = " ".join(fields)
    return ("\n".join(lines) + "\n").encode()


def everywhere(columns: range, value: str) -> bytes:
    rows = [line.split(" ") for line in text().splitlines()]
    for row in rows:
        for column in columns:
            row[column] = value
    return ("\n".join(" ".join(row) for row in rows) + "\n").encode()


def test_values_are_those_of_pandas() -> None:
    content = text(200).encode()
    found = parse_recording(content, NAME)
    expected = pd.read_csv(io.BytesIO(content), sep=" ", header=None, names=list(COLUMNS))
    np.testing.assert_array_equal(found.seconds, expected["timestamp"])
    np.testing.assert_array_equal(found.activities, expected["activity"])
    np.testing.assert_array_equal(found.values, expected[list(SENSORS)].to_numpy(np.float32))
    assert found.subject == 101


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "expected rows of 54 columns, found an empty file"),
        (text().encode()[:-200], r"line 30: expected 54 columns, found \d+ \(the last line: a truncated file\?\)"),
        (text().replace("\n", " 1\n", 1).encode(), "line 1: expected 54 columns, found 55"),
        (" ".join(text().split(" ")[1:]).encode(), "line 1: expected 54 columns, found 53"),
        (changed(7, 20, "x.5"), "line 7: expected a number or NaN in chest_temperature, found 'x.5'"),
        (changed(7, 20, "-"), "line 7: expected a number or NaN"),
        (changed(7, 20, "inf"), "line 7: expected a finite number in chest_temperature, found inf"),
        (changed(9, 5, "1\0"), "line 9: expected text, found a NUL byte"),
        (changed(4, 1, "8"), "line 4: expected an activity id .*, found 8"),
        (changed(4, 1, "1.5"), "line 4: expected a whole number in activity, found '1.5'"),
        (changed(6, 0, "5.04"), "line 6: expected a time after 5.04 s, found a repeated timestamp, 5.04 s"),
        (changed(6, 0, "1.00"), "line 6: expected a time after 5.04 s, found a timestamp that goes back, 1.00 s"),
        (changed(6, 0, "NaN"), "line 6: expected a time in seconds, found nan"),
        (everywhere(range(2, 3), "NaN"), "lines 1 to 30: expected measurements of the heart rate, found NaN"),
        (everywhere(range(20, 37), "NaN"), "lines 1 to 30: expected measurements of the IMU on the chest"),
    ],
)
def test_bad_input_is_named(content: bytes, problem: str) -> None:
    with pytest.raises(DataError, match=f"^{NAME}: {problem}") as caught:
        parse_recording(content, NAME)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_name_without_a_subject_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected a file name such as subject101\.dat, found 'walk\.dat'"):
        parse_recording(text().encode(), "Protocol/walk.dat")


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_nested_zip_inner_zip_and_folder_hold_the_same(tmp_path: Path) -> None:
    folder = write_recordings(SMALL, tmp_path)
    files = {f"PAMAP2_Dataset/Protocol/{path.name}": path.read_bytes() for path in folder.rglob("*.dat")}
    files["PAMAP2_Dataset/Optional/subject101.dat"] = b"other activities"
    inner, outer = tmp_path / "inner.zip", tmp_path / "outer.zip"
    inner.write_bytes(zipped(files))
    outer.write_bytes(zipped({"readme.pdf": b"", "PAMAP2_Dataset.zip": inner.read_bytes()}))
    found = [[content for _, content in open_recordings(source)] for source in (folder, inner, outer)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 2


def test_bad_sources_are_named(tmp_path: Path) -> None:
    whole = zipped({"Protocol/subject101.dat": text().encode()})
    cases = {
        "cut.zip": (whole[:-40], "expected a whole zip archive, found it damaged"),
        "text.zip": (b"not a zip", "expected a whole zip archive"),
        "flipped.zip": (whole.replace(text().encode()[50:60], b"0123456789"), "damaged: Bad CRC-32"),
        "out.zip": (zipped({"../subject101.dat": b"x"}), r"found '\.\./subject101\.dat', which leads out of it"),
        "empty.zip": (zipped({"readme.txt": b"x"}), "found no .dat file"),
        "twice.zip": (
            zipped({"a/subject101.dat": b"x", "b/subject101.dat": b"x"}),
            "expected one file for subject 101",
        ),
    }
    for name, (content, problem) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=problem):
            list(open_recordings(path))
    with pytest.raises(DataError, match="found nothing there"):
        list(open_recordings(tmp_path / "gone.zip"))

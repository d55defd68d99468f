"""Files are whole or absent."""

import io
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from labtrail import files


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_makes_folders_and_digest_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "b/c.txt"
    files.write_atomically(path, b"abc")
    assert files.sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_encode_by_kind_and_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    assert files.encode("t.csv", frame) == b"a\n1\n2\n"
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(files.encode("t.parquet", frame))), frame)
    assert files.encode("f.png", Figure()).startswith(b"\x89PNG")
    assert files.encode("x.txt", "é") == "é".encode()
    (tmp_path / "y").write_bytes(b"y")
    assert files.encode("y", tmp_path / "y") == b"y"
    with pytest.raises(TypeError, match=r"cannot store a DataFrame as t\.xlsx"):
        files.encode("t.xlsx", frame)

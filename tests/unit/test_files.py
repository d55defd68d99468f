"""Files are whole or absent."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from labtrail import files
from labtrail.errors import DataError


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
    image = files.encode("p.PNG", Image.new("RGB", (3, 2), "red"))
    assert np.asarray(Image.open(io.BytesIO(image)))[1, 2].tolist() == [255, 0, 0]
    assert np.load(io.BytesIO(files.encode("a.npy", np.arange(3)))).tolist() == [0, 1, 2]
    weights = torch.load(io.BytesIO(files.encode("w.pt", {"w": torch.ones(2), "n": [1]})), weights_only=True)
    assert weights["w"].tolist() == [1, 1]
    assert json.loads(files.encode("m.json", {"a": [1, None, "é"]})) == {"a": [1, None, "é"]}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "t.xlsx",
            pd.DataFrame({"a": [1]}),
            r"a DataFrame cannot be stored so: nothing is known that stores it as \.xlsx",
        ),
        ("a.npy", np.array([object()]), "Object arrays cannot be saved"),
        ("a.json", {"a": object()}, "not JSON serializable"),
        ("a.json", [float("nan")], "a list cannot be stored so"),
        ("a.pt", {"a": Path("x")}, "a dict cannot be stored so"),
        ("a", np.zeros(1), "as a file without an ending"),
        ("a.xyz", Image.new("L", (1, 1)), "a Image cannot be stored so"),
        ("a.xyz", Figure(), "is not supported"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_a_line(name: str, content: object, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        files.encode(name, content)
    assert len(str(caught.value).splitlines()) == 1

"""Labels of the three splits: counted from 0 or 1, never mixed, never out of range."""

from pathlib import Path

import numpy as np
import pytest

from labtrail.errors import DataError
from projects.spoter.config import DataConfig, SpoterConfig, SyntheticConfig
from projects.spoter.data import load_splits, sources
from projects.spoter.synthetic import generate, to_csv, write_split

SMALL = SyntheticConfig(classes=3, train=6, validation=3, test=3, frames=4)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def files(shift: dict[str, int]) -> DataConfig:
    """Three CSVs whose labels are moved by ``shift`` from their start at 1."""
    for split in ("train", "validation", "test"):
        clips, labels = generate(split, SMALL)
        Path(f"{split}.csv").write_text(to_csv(clips, labels + shift.get(split, 0)))
    return DataConfig(train="train.csv", validation="validation.csv", test="test.csv")


@pytest.mark.parametrize(("shift", "first"), [(0, 1), (-1, 0)])
def test_first_label_is_read_off_the_train_split(shift: int, first: int) -> None:
    splits = load_splits(files(dict.fromkeys(("train", "validation", "test"), shift)))
    assert splits.first_label == first
    assert splits.classes == 3
    np.testing.assert_array_equal(splits.test.labels, [0, 1, 2])


@pytest.mark.parametrize(
    ("shift", "wanted"),
    [
        ({"validation": -1}, r"validation\.csv: row 1, column labels: label 0 is out of range; .* 1\.\.3"),
        ({"train": -1}, r"validation\.csv: row 3, column labels: label 3 is out of range; .* 0\.\.2"),
        ({"test": 5}, r"test\.csv: row 1, column labels: label 6 is out of range"),
        ({"train": -9}, r"train\.csv: row 1, column labels: label -8 is out of range"),
    ],
)
def test_mix_or_stray_label_is_refused(shift: dict[str, int], wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        load_splits(files(shift))


def test_first_label_can_be_told() -> None:
    config = files({}).model_copy(update={"first_label": 0})
    splits = load_splits(config)
    assert (splits.first_label, splits.classes) == (0, 4)
    np.testing.assert_array_equal(splits.test.labels, [1, 2, 3])


def test_label_beyond_the_given_classes_is_refused() -> None:
    with pytest.raises(DataError, match="label 3 is out of range"):
        load_splits(files({}).model_copy(update={"classes": 2}))


def test_synthetic_split_is_the_same_bytes_again() -> None:
    path = write_split("train", SMALL)
    content = path.read_bytes()
    path.unlink()
    assert write_split("train", SMALL).read_bytes() == content
    assert write_split("train", SMALL.model_copy(update={"seed": 1})) != path


def test_sources_tell_digest_and_counts() -> None:
    found = sources(SpoterConfig(data=files({})))
    assert [source.context for source in found] == ["train", "validation", "test"]
    assert [source.profile["clips"] for source in found] == [6, 3, 3]
    assert len({source.digest for source in found}) == 3
    assert all(len(source.digest) == 64 for source in found)

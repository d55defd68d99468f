"""Heart rate by its rule, a data set that is whole or absent, and the same bytes every time."""

import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labtrail.errors import DataError
from labtrail.files import replaced_folder, sha256_of
from projects.pamap2 import build as building
from projects.pamap2.build import build, open_data
from projects.pamap2.config import DataConfig, ExportConfig, PrepareConfig, SplitConfig, SyntheticConfig
from projects.pamap2.dataset import ARRAYS, INDEX, load_dataset
from projects.pamap2.export import write_exports
from projects.pamap2.heart_rate import smooth_heart_rate
from projects.pamap2.recording import Recording
from projects.pamap2.schema import FULL_ROWS, SENSORS
from projects.pamap2.synthetic import write_recordings

ROOT = Path(__file__).resolve().parents[3]
SMALL = SyntheticConfig(subjects=2, activities=(1, 4), bouts=2, bout_s=4)


def oracle(values: list[float], samples: int, median: str) -> list[float]:
    """The rule in plain Python."""
    if median == "native":
        measured: list[float] = []
        rows = []
        for value in values:
            if not math.isnan(value):
                measured.append(value)
                rows.append(statistics.median(measured[-samples:]))
            else:
                rows.append(math.nan)
        return filled(rows)
    rows = filled(values)
    before, after = (samples - 1, 0) if median == "trailing" else (samples // 2, samples // 2)
    return [statistics.median(rows[max(0, i - before) : i + after + 1]) for i in range(len(rows))]


def filled(values: list[float]) -> list[float]:
    found, last = [], math.nan
    for value in values:
        last = last if math.isnan(value) else value
        found.append(last)
    first = next((value for value in found if not math.isnan(value)), math.nan)
    return [first if math.isnan(value) else value for value in found]


@given(
    st.lists(st.one_of(st.just(math.nan), st.integers(40, 200).map(float)), min_size=1, max_size=80),
    st.sampled_from(["trailing", "centered", "native"]),
    st.sampled_from([1, 3, 25]),
)
def test_heart_rate_equals_the_rule_in_plain_python(values: list[float], median: str, samples: int) -> None:
    found = smooth_heart_rate(np.array(values, np.float32), median, samples)  # ty: ignore[invalid-argument-type]
    expected = oracle(values, samples, median) if not all(map(math.isnan, values)) else values
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_recordings(SMALL, tmp_path)
    split = SplitConfig(window=32, step=16)
    config = PrepareConfig(export=ExportConfig(csv=True, tensors=True, manifests=True), split=split)
    contents = []
    for name in ("one", "two"):
        output = tmp_path / name
        build(source, output, "trailing", lambda dataset, folder: write_exports(config, dataset, folder))
        paths = sorted(path for path in output.rglob("*") if path.is_file())
        contents.append({str(path.relative_to(output)): path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    assert {"splits/train.txt", "processed/subject_101/activity_4.csv", INDEX, *ARRAYS} <= set(contents[0])

    dataset = load_dataset(tmp_path / "one")
    assert not np.isnan(dataset.values[:, SENSORS.index("heart_rate")]).any()
    assert set(np.unique(dataset.activities)) == {1, 4}
    table = pd.read_csv(tmp_path / "one/processed/subject_101/activity_4.csv")
    own = (dataset.subjects == 101) & (dataset.activities == 4)
    assert table.shape == (own.sum(), 55)
    np.testing.assert_allclose(table[list(SENSORS)], dataset.values[own], rtol=1e-6)
    tensor = torch.load(tmp_path / "one/processed_tensors/subject_101/activity_4.pt", weights_only=True)
    np.testing.assert_array_equal(tensor.numpy(), dataset.values[own])
    lines = [
        line.split(",")
        for name in ("train", "val", "test")
        for line in (tmp_path / f"one/splits/{name}.txt").read_text().splitlines()
    ]
    assert sum(int(rows) for _, rows in lines) == len(dataset)


def test_failed_preparation_leaves_the_old_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = write_recordings(SMALL, tmp_path), tmp_path / "prepared"
    build(source, output, "trailing")
    before = load_dataset(output).digest

    def stop(_dataset: object, _folder: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, output, "native", stop)
    assert load_dataset(output).digest == before
    build(source, output, "native")
    assert load_dataset(output).digest != before
    assert [path.name for path in tmp_path.glob(".prepared-*")] == [output.readlink().name]


def test_foreign_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="mine exists and was not made by"):
        build(write_recordings(SMALL, tmp_path), tmp_path / "mine", "trailing")
    with pytest.raises(FileExistsError), replaced_folder(tmp_path / "mine"):
        pass


def test_missing_and_damaged_data_sets_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no index\.json; prepare one: mlflow run"):
        load_dataset(tmp_path)
    build(write_recordings(SMALL, tmp_path), tmp_path / "prepared", "trailing")
    (tmp_path / "prepared/seconds.npy").write_bytes(b"x")
    with pytest.raises(DataError, match=r"damaged: .*; prepare the data again"):
        load_dataset(tmp_path / "prepared")


def test_synthetic_data_are_prepared_on_the_spot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (open_data(DataConfig(synthetic=SMALL)) for _ in range(2))
    assert first.digest == second.digest
    assert set(np.unique(first.subjects)) == {101, 102}


def test_all_nine_subjects_must_have_the_published_rows() -> None:
    def recording(subject: int, rows: int) -> Recording:
        return Recording(subject, np.zeros(rows), np.zeros(rows), np.zeros((0, 52)))

    whole = [recording(subject, rows) for subject, rows in FULL_ROWS.items()]
    building._check_full(whole)
    building._check_full([recording(101, 5)])
    with pytest.raises(DataError, match="subject 109: expected 6391 rows with activity 0 dropped, found 6000"):
        building._check_full([*whole[:-1], recording(109, 6000)])


KILLED = """
import sys
from pathlib import Path
from projects.pamap2.build import build
print("ready", flush=True)
sys.stdin.readline()
build(Path(sys.argv[1]), Path(sys.argv[2]), "trailing")
print("done", flush=True)
"""


def test_a_killed_prepare_leaves_the_old_data_or_the_new_never_a_mixture(tmp_path: Path) -> None:
    old_source, new_source = (
        write_recordings(SMALL.model_copy(update={"seed": seed}), tmp_path / f"source{seed}") for seed in (0, 1)
    )
    output, fresh = tmp_path / "prepared", tmp_path / "fresh"
    began = time.perf_counter()
    build(new_source, fresh, "trailing")
    took = time.perf_counter() - began
    build(old_source, output, "trailing")
    whole = {one.digest for one in map(load_dataset, (fresh, output))}
    ends = set()
    for share in (0.3, 0.6, 0.9, 1.0, 1.1, 3.0):
        command = [sys.executable, "-c", KILLED, str(new_source), str(output)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(share * took)
            process.kill()
        found = load_dataset(output)
        ends.add(found.digest)
        assert found.digest in whole
        index = json.loads((output / INDEX).read_text())
        assert {name: sha256_of(output / name) for name in ARRAYS} == index["sha256"]
        build(old_source, output, "trailing")
        # What a killed prepare has left behind is gone with the next one.
        assert [path.name for path in tmp_path.glob(".prepared-*")] == [output.resolve().name]
    assert load_dataset(output).digest in ends

"""Recordings as users have them, and proofs of no leak that have to see what they are shown."""

import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from projects.pamap2.config import SyntheticConfig
from projects.pamap2.synthetic import generate, to_text
from tests.cases.running import HONEST, Output, fails_for, output_of, run_in
from tests.workspace import REAL_DATA, Workspace

# Where the scripts look for the recordings of three invented people.
_SOURCE = "scratch/syn/pamap2-7b170ea04b5e6287/Protocol"


@cache
def fuzzed() -> Output:
    """What becomes of 58 variations of three recordings; then the two proofs on the unchanged ones."""
    folder = Path(tempfile.mkdtemp(prefix="labtrail-case-"))
    workspace = Workspace(folder)
    source = folder / _SOURCE
    source.mkdir(parents=True)
    for subject in (101, 102, 103):
        (source / f"subject{subject}.dat").write_text(to_text(generate(subject, SyntheticConfig())))
    fuzz = run_in(workspace, "pamap2/fuzz_data.py")
    leak = run_in(workspace, "pamap2/leak2.py")
    shutil.rmtree(folder)
    return Output(fuzz.status, (*fuzz.lines, *leak.lines))


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_no_recording_ends_in_a_traceback() -> None:
    output = fuzzed()
    assert output.status == 0
    assert len([line for line in output.lines if " => " in line]) >= 50
    assert [line for line in output.lines if "=> !!" in line or "Traceback" in line] == []


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_a_guard_is_a_distance_in_time() -> None:
    line = fuzzed().line("A) no loss: ")
    kept, with_loss = (float(number) for number in re.findall(r"(?:distance|edges:) ([\d.]+) s", line))
    assert with_loss >= kept


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_no_training_row_reads_a_test_measurement() -> None:
    rows = [
        int(line.rpartition(":")[2]) for line in fuzzed().lines if line.startswith("B) window") and ".median" in line
    ]
    assert rows
    assert max(rows) == 0


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_nine_people_that_are_not_the_published_ones_are_taken() -> None:
    output = output_of("pamap2/nine_subjects.py")
    assert not any(line.startswith("DataError") for line in output.lines)


@cache
def real() -> Output:
    """The scripts that want the real subset, in one lab; the first prepares it."""
    folder = Path(tempfile.mkdtemp(prefix="labtrail-case-"))
    (folder / "lab").mkdir()
    workspace = Workspace(folder / "lab")
    (folder / "shared").mkdir()
    (folder / "shared/data").symlink_to(REAL_DATA.resolve())
    lines: list[str] = []
    for script, arguments in (("natural_missing", ("1",)), ("edges", ()), ("leak3", ())):
        lines += run_in(workspace, f"pamap2/{script}.py", *arguments, timeout=1800).lines
    shutil.rmtree(folder)
    return Output(0, tuple(lines))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("beginning", "wanted"),
    [
        fails_for(HONEST, "none == mean_impute:", "False"),
        fails_for(HONEST, "real 4 subjects contiguous window 64 hr.median native", " windows: 0 of"),
    ],
)
def test_what_the_real_subset_shows(beginning: str, wanted: str, real_data: Path) -> None:
    del real_data
    assert wanted in real().line(beginning)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.xfail(reason=HONEST, strict=True)
def test_a_sensor_that_is_lost_in_the_recording_is_masked(real_data: Path) -> None:
    del real_data
    rows = [re.findall(r"present\) ([\d.]+) \| same model with the mask set ([\d.]+)", line) for line in real().lines]
    pairs = [row[0] for row in rows if row]
    assert pairs
    assert all(filled == masked for filled, masked in pairs)

"""Distillation as a hostile reader would try it: fair arms, typos before anything trains, odd images."""

import re
import shutil

import pytest

from tests.cases.running import HONEST, SCRIPTS, fails_for, output_of
from tests.workspace import Workspace

REFUSED = (
    "typo in grid key",
    "typo in grid value",
    "grid scalar instead of list",
    "self read",
    "forward cycle",
    "dup value in grid",
    "group twice",
    "read ambiguous",
    "read none agree",
    "missing base",
    "unknown task",
    "name with slash",
    "group name with slash",
    "empty groups",
    "groups as mapping",
    "seed float",
    "seed 1e3",
    "alpha comma number",
    "study low>high",
    "study choices and ends",
    "study empty space",
    "study trials 0",
    "study two metrics",
    "study log from 0",
    "bundle no students",
    "bundle dup students",
    "bundle students typo",
    "bundle alpha in loss",
    "bundle two baselines",
)
TAKEN = (
    "empty grid list",
    "dup value 0.5 and .50",
    "two groups same cells",
    "reads unknown key",
    "reads wrong-type key (seed)",
    "key in values and in grid",
    "study typo space key",
    "study space out of range",
    "study integer with float ends",
    "study choices with bad",
    "study metric typo",
    "study metric on test",
    "study values overlap space",
    "study bad storage",
    "study seed in space",
)


@pytest.mark.parametrize("name", [*REFUSED, *(fails_for(HONEST, name) for name in TAKEN)])
def test_what_cannot_work_is_refused_before_anything_trains(name: str) -> None:
    found = [
        line for line in output_of("distill/fuzz2.py").lines if re.match(rf"{re.escape(name)} +(OK|error|TRACE)", line)
    ]
    assert len(found) == 1
    assert found[0].removeprefix(name).strip().startswith("error: ")


def test_no_config_ends_in_a_traceback() -> None:
    output = output_of("distill/fuzz2.py")
    assert output.status == 0
    assert [line for line in output.lines if "TRACEBACK" in line] == []


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_a_bundles_partial_loss_merges() -> None:
    line = output_of("distill/fuzz2.py").line("bundle partial loss resets the bundle loss")
    assert "('attention', 0.5, (8.0, 10.0))" in line


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_the_control_arm_at_alpha_0_is_the_baseline() -> None:
    numbers = re.findall(r"loss (\d+\.\d+)", output_of("distill/check.py").line("same logits: "))
    assert numbers[0] == numbers[1]


@pytest.mark.slow
@pytest.mark.xfail(reason=HONEST, strict=True)
def test_baseline_and_control_are_calibrated_alike() -> None:
    lines = output_of("distill/ls.py", timeout=1800).lines
    smoothed, plain = (
        next(line for line in lines if line.startswith("none") and f"ls {rate}" in line) for rate in (0.1, 0.0)
    )
    ece = [float(re.findall(r"'ece': ([\d.]+)", line)[0]) for line in (smoothed, plain)]
    assert ece[0] == ece[1], "the arm without a teacher is smoothed by default, the others are not"


def lab(workspace: Workspace) -> Workspace:
    for path in (SCRIPTS / "distill").iterdir():
        if path.suffix in (".yaml", ".gz"):
            shutil.copy(path, workspace.folder)
    return workspace


@pytest.mark.parametrize("name", [fails_for(HONEST, name) for name in ("reads_typo.yaml", "empty.yaml")])
def test_a_campaign_that_cannot_work_is_refused(name: str, workspace: Workspace) -> None:
    done = lab(workspace).run("labtrail", "campaign", "run", "--config", name, "--dry-run")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_mini_round_has_its_cells(workspace: Workspace) -> None:
    done = lab(workspace).run("labtrail", "campaign", "run", "--config", "mini.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("24 cells: ")


@pytest.mark.xfail(reason=HONEST, strict=True)
def test_slashes_in_a_cells_values_make_no_folders(workspace: Workspace) -> None:
    lab(workspace).run("labtrail", "campaign", "run", "--config", "slash.yaml", "--workers", "1")
    logs = list((workspace.folder / ".labtrail/campaigns/slashes").rglob("*.log"))
    assert len(logs) == 2
    assert all(path.parent.name == "slashes" for path in logs)


@pytest.mark.parametrize("name", [fails_for(HONEST, "testopt.yaml")])
def test_a_study_that_cannot_work_is_refused(name: str, workspace: Workspace) -> None:
    done = lab(workspace).run("labtrail", "study", "run", "--config", name)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.xfail(reason=HONEST, strict=True)
def test_a_study_of_two_values_trains_each_once(workspace: Workspace) -> None:
    done = lab(workspace).run("labtrail", "study", "run", "--config", "dup.yaml", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "the space has 2 different trials" in done.stderr


@pytest.mark.slow
@pytest.mark.xfail(reason=HONEST, strict=True)
def test_a_study_pins_its_teacher(workspace: Workspace) -> None:
    done = lab(workspace).run("labtrail", "study", "run", "--config", "study.yaml", timeout=600)
    assert done.returncode == 2
    assert "no finished baseline" in done.stderr
    assert list((workspace.folder / ".labtrail/studies").rglob("worker*.log")) == []


@pytest.mark.parametrize(
    "name",
    [fails_for(HONEST, name) for name in ("tiny.tar.gz", "emptyb.tar.gz")],
)
def test_images_too_few_to_split_are_refused(name: str, workspace: Workspace) -> None:
    options = ("--data.name", "cifar10", "--data.folder", name, "--train.epochs", "1")
    done = lab(workspace).run("labtrail", "run", "distill", *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_bundle_of_eight_students(workspace: Workspace) -> None:
    teacher = ("--model.name", "resnet14", "--train.epochs", "3", "--train.batch_size", "64")
    assert lab(workspace).run("labtrail", "run", "distill", *teacher).returncode == 0
    done = workspace.run("labtrail", "run", "distill-bundle", "--config", "bundle0.yaml", timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(workspace.query("distill").runs()) == 9

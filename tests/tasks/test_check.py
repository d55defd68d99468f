"""``labtrail check``: green for what is right, red for what is not, and then with the cause."""

import shutil
from pathlib import Path

import pytest

from labtrail.testing import check_repeat, check_resume
from tests.tasks.planted import planted
from tests.workspace import REPOSITORY, TINY, Workspace

STRANGERS = REPOSITORY / "tests/cases/scripts/platform/fifth-task"
# Fault -> what is named as its cause.
CAUSES = {
    "cosine": "schedule (CosineAnnealingLR) changes from Record to Record and is not kept",
    "one_cycle": "schedule (OneCycleLR) changes",
    "plateau": "schedule (ReduceLROnPlateau) changes",
    "average": "average (Linear) changes",
    "swa": "average (AveragedModel) changes",
    "generator": "order (Generator) changes",
    "numpy": "noise (Generator) changes",
    "late": "progress.epoch is advanced after the yield",
    "global": "not seen from outside; what comes in question: a sum or a list that lives over several Records",
    "clock": "the task does not even repeat without a kill",
}


def _checked(workspace: Workspace, *words: str) -> tuple[int, str]:
    workspace.variables["PYTHONPATH"] = f"src:.:{REPOSITORY}"
    done = workspace.run("labtrail", "check", *words)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("fault", CAUSES)
def test_a_fault_is_found_and_its_cause_named(fault: str, workspace: Workspace) -> None:
    status, said = _checked(workspace, "resume", "tests.tasks.planted:planted", "--fault", fault)
    assert status == 1, said
    assert CAUSES[fault] in said
    assert "Traceback" not in said


def test_what_is_right_is_found_right(workspace: Workspace) -> None:
    store = workspace.folder / "mlflow.db"
    before = store.read_bytes()
    status, said = _checked(workspace, "resume", "tests.tasks.planted:planted", "--epochs", "3")
    assert (status, said.splitlines()) == (
        0,
        [
            "whole:    3 states, 1 metrics, to its end",
            "killed:   3 times with SIGKILL, each time continued by a new process",
            "verdict:  goes on to the bit",
        ],
    )
    assert store.read_bytes() == before
    assert not (workspace.folder / "mlruns").exists()


def test_repeat(workspace: Workspace) -> None:
    assert _checked(workspace, "repeat", "tests.tasks.planted:planted")[0] == 0
    status, said = _checked(workspace, "repeat", "tests.tasks.planted:planted", "--fault", "clock")
    assert status == 1
    assert "verdict:  differs before the first state: step 0, train/loss:" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("resume", "nothing"), "task 'nothing' is unknown"),
        (("resume", "tests.tasks.absent:planted"), "task tests.tasks.absent:planted: no module tests.tasks.absent"),
        (("resume", "tests.tasks.planted:PlantedConfig"), "it is a ModelMetaclass, no Task"),
        (("resume", "tests.tasks.planted:planted", "--fautl", "x"), "--fautl: unknown key (did you mean 'fault'?)"),
    ],
)
def test_what_is_not_there_is_refused(words: tuple[str, ...], why: str, workspace: Workspace) -> None:
    status, said = _checked(workspace, *words)
    assert status == 2
    assert why in said


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("spoter", ("--config", "tiny.yaml")),
        ("pamap2", ("--config", "configs/pamap2/synthetic.yaml", "--train.epochs", "2")),
        ("distill", ("--train.epochs", "2")),
    ],
)
def test_tasks_of_this_lab_go_on(task: str, options: tuple[str, ...], workspace: Workspace) -> None:
    workspace.write("tiny.yaml", TINY)
    status, said = _checked(workspace, "resume", task, *options)
    assert status == 0, said


@pytest.mark.parametrize(("name", "options"), [("reviews", ()), ("tumour", ("--train.epochs", "2"))])
def test_tasks_of_a_stranger_go_on(name: str, options: tuple[str, ...], workspace: Workspace) -> None:
    shutil.copytree(STRANGERS / name, workspace.folder / "projects" / name)
    synthetic = STRANGERS / name / "synthetic.yaml"
    workspace.write(f"configs/{name}/synthetic.yaml", synthetic.read_text() if synthetic.exists() else "epochs: 3\n")
    status, said = _checked(workspace, "resume", f"projects.{name}.__main__:TASK", *options)
    assert status == 0, said


@pytest.mark.slow
def test_repeat_as_an_assertion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(REPOSITORY))
    check_repeat(planted, boundaries=2, epochs=2)


def test_as_assertions_in_tests_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(REPOSITORY))
    with pytest.raises(AssertionError, match=r"cause: +schedule \(CosineAnnealingLR\) changes"):
        check_resume(planted, boundaries=2, fault="cosine")

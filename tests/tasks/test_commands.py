"""Whole commands: the lab found from a subfolder, exit statuses, and answers before anything heavy is loaded."""

from pathlib import Path

import pytest

from labtrail.store import contract
from tests.workspace import Workspace


def test_a_start_from_a_subfolder_is_the_same_work_in_the_same_store(workspace: Workspace) -> None:
    options = ("--config", "tiny.yaml", "--train.epochs", "1", "--train.milestones", "[]")
    done = workspace.run("labtrail", "run", "spoter", *options)
    assert done.returncode == 0, done.stderr
    inner = workspace.folder / "notes/today"
    inner.mkdir(parents=True)
    here, workspace.folder = workspace.folder, inner
    workspace.variables["PYTHONPATH"] = str(here / "src")
    again = workspace.run("labtrail", "run", "spoter", "--config", "../../tiny.yaml", *options[2:])
    assert again.returncode == 0, again.stderr
    assert "already done: run" in again.stderr
    assert list(inner.iterdir()) == []


def test_work_that_is_done_is_told_before_torch_and_mlflow_are_loaded(workspace: Workspace) -> None:
    options = ("run", "spoter", "--config", "tiny.yaml", "--train.epochs", "1", "--train.milestones", "[]")
    assert workspace.run("labtrail", *options).returncode == 0
    done = workspace.cold("python", "-X", "importtime", "-m", "labtrail.console", *options)
    assert done.returncode == 0
    assert "already done: run" in done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "labtrail.running.work" in loaded
    assert loaded.isdisjoint({"torch", "mlflow"})


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("labtrail",), 0, ""),
        (("labtrail", "--version"), 0, ""),
        (("labtrail", "runn", "spoter"), 2, "no command 'runn' (did you mean 'run'?)"),
        (("labtrail", "run", "spotter"), 2, "task 'spotter' is unknown (did you mean 'spoter'?)"),
        (("labtrail", "run", "spoter", "--train.epoch", "3"), 2, "--train.epoch: unknown key (did you mean 'epochs'?)"),
        (("labtrail", "run", "spoter", "--config", "x.yaml"), 2, "x.yaml: no such config file"),
        (("labtrail", "run", "spoter", "--print-config"), 0, ""),
        (("labtrail", "run", "spoter-attention", "--epochs", "x"), 2, "--epochs: input should be a valid integer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_answers_and_exit_statuses(workspace: Workspace, words: tuple[str, ...], status: int, message: str) -> None:
    # Fresh interpreters: what a person waits for.
    done = workspace.cold(*words)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == (1 if status else 0)
    assert not (workspace.folder / "mlruns").exists()


def test_outside_a_lab_a_command_says_so(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = str(workspace.folder / "src")
    workspace.folder = tmp_path_factory.mktemp("nowhere")
    workspace.variables["PYTHONPATH"] = source
    done = workspace.cold("labtrail", "init")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: {workspace.folder}: no lab here; a pyproject.toml with a table [tool.labtrail] makes one\n"
    )
    assert list(Path(workspace.folder).iterdir()) == []


def test_mlflow_run_keeps_the_exit_status_in_a_tag(workspace: Workspace) -> None:
    """MLflow itself ends with 1 whatever its child's status is."""
    refused = workspace.mlflow_run("spoter", "-P", "train.epoch=3")
    assert refused.returncode == 1
    (run,) = workspace.client().search_runs(["1"] if workspace.client().get_experiment("1") else ["0"])
    assert run.data.tags[contract.EXIT_STATUS] == str(contract.REFUSED)
    assert "unknown key" in run.data.tags[contract.STATUS_REASON]

"""`mlflow run --backend slurm` on a real Slurm."""

import json
import time
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import RunStatus

from labtrail.store import contract
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.rounds import Round
from tests.workspace import Workspace, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def found(workspace: Workspace, slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> Round:
    return Round(workspace, slurm, monkeypatch, epochs=4)


def submitted(found: Round, *options: str, config: str = "backend.json"):
    return found.workspace.run(
        "mlflow",
        "run",
        ".",
        "-e",
        "distill",
        "--experiment-name",
        "distill",
        "--backend",
        "slurm",
        "--backend-config",
        config,
        "-P",
        "config=quick.yaml",
        *options,
    )


def test_a_run_is_opened_then_submitted_then_finished(found: Round) -> None:
    done = submitted(found, "-P", "seed=3")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: len(found.runs()) == 1 and found.runs()["status"].item() == "FINISHED", 120)
    run = found.runs().iloc[0]
    assert run["cfg.seed"] == "3"
    assert run[contract.JOB_NAME] == f"distill-{run['run_id']}"
    assert run[contract.RESOURCES] == "time=5 cpus-per-task=1"
    tags = found.workspace.client().get_run(run["run_id"]).data.tags
    assert tags["mlflow.project.backend"] == "slurm"
    assert run["labtrail.attempts"] == "1"
    again = submitted(found, "-P", "seed=3")
    assert again.returncode == 0
    wait_until(lambda: not found.slurm.job_processes() and not found.slurm.queue(), 120)
    assert len(found.runs()) == 1


def test_waiting_status_and_cancelling(found: Round, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{found.workspace.folder / 'mlflow.db'}")
    given = json.loads(Path("backend.json").read_text())

    def run(epochs: int):
        return mlflow.run(
            ".",
            "distill",
            parameters={"config": "quick.yaml", "train.epochs": epochs},
            experiment_name="distill",
            backend="slurm",
            backend_config=dict(given),
            synchronous=False,
        )

    first = run(4)
    assert first.get_status() in (RunStatus.SCHEDULED, RunStatus.RUNNING)
    assert first.wait()
    second = run(4000)
    wait_until(lambda: second.get_status() == RunStatus.RUNNING, 60)
    time.sleep(2)
    second.cancel()
    assert not second.wait()
    assert second.get_status() == RunStatus.KILLED


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"resources": {"partition": "nope"}}, "invalid partition specified: nope"),
        ({"template": "slurm/none"}, "template: slurm/none: no such file (there: slurm/job.slurm)"),
        ({"scratch": "/proc/none"}, "scratch: /proc/none: "),
        ({"resource": {}}, "resource: unknown key (did you mean 'resources'?)"),
    ],
)
def test_what_is_refused_leaves_nothing(found: Round, values: dict, says: str) -> None:
    found.configure(**values)
    done = submitted(found)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert found.slurm.queue() == []
    assert found.runs().empty
    told = found.called()
    assert told.returncode != 0
    assert says in told.stderr
    assert "Traceback" not in told.stderr
    assert found.runs().empty


@pytest.mark.parametrize("text", ["template: slurm/job.slurm\n", '{"template": '])
def test_a_config_that_is_no_json(found: Round, text: str) -> None:
    found.workspace.write("broken.json", text)
    assert submitted(found, config="broken.json").returncode != 0
    assert submitted(found, config="backend.yaml").returncode != 0
    assert found.slurm.queue() == []
    told = found.workspace.run(*found.command()[:-1], "broken.json")
    assert told.returncode == 2
    assert "error: broken.json: not valid JSON" in told.stderr

"""A tracking server that keeps the artifacts: everything arrives, and a lost local copy is brought back."""

import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator

import pandas as pd
import pytest
from mlflow import MlflowClient

from labtrail.query.query import Query
from tests.workspace import Workspace, wait_for_line, wait_until


@pytest.fixture
def server(workspace: Workspace) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (workspace.folder / "server").mkdir()
    workspace.variables["MLFLOW_TRACKING_URI"] = "sqlite:///server/mlflow.db"
    command = ["labtrail", "server", "--port", str(port), "--artifacts", "server/artifacts"]
    with workspace.started(*command) as process:
        wait_for_line(process, "Uvicorn running")
        wait_until(lambda: _answers(url))
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_lost_local_copy_is_brought_back(workspace: Workspace, server: str) -> None:
    workspace.variables["MLFLOW_TRACKING_URI"] = server
    with workspace.started("python", "-m", "projects.spoter", "--config", "tiny.yaml") as process:
        wait_for_line(process, "step 2 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    local = workspace.folder / ".labtrail/runs"
    assert list(local.glob("*/checkpoints/last"))
    shutil.rmtree(local)

    done = workspace.spoter()
    assert done.returncode == 0, done.stderr
    assert "step 0 " not in done.stderr
    assert "step 3 " in done.stderr
    assert not (workspace.folder / "mlruns").exists()
    assert list(local.iterdir()) == []

    client = MlflowClient(server)
    query = Query("spoter", client=client)
    run_id = query.runs()["run_id"].item()
    assert query.history(["train/loss"])["step"].tolist() == [0, 1, 2, 3]
    names = {
        artifact.path
        for folder in ("", "checkpoints", "checkpoints/last", "tables", "figures")
        for artifact in client.list_artifacts(run_id, folder or None)
    }
    wanted = {
        "config.yaml",
        "checkpoints/best.pt",
        "checkpoints/epoch_004.pt",
        "checkpoints/last/state.json",
        "checkpoints/last/model.safetensors",
        "tables/confusion.csv",
        "figures/curves.png",
    }
    assert wanted <= names
    table = pd.read_csv(client.download_artifacts(run_id, "tables/predictions.csv", str(workspace.folder)))
    assert len(table) == 8

    # What reads another run's checkpoints brings them from the server.
    done = workspace.run("python", "-m", "projects.spoter", "attention", "--epochs", "4")
    assert done.returncode == 0, done.stderr
    extraction = Query("spoter-attention", client=client).runs()["run_id"].item()
    assert [artifact.path for artifact in client.list_artifacts(extraction, "attention")] == [
        "attention/epoch_004.safetensors"
    ]

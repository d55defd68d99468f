"""Stores that many nodes write to: PostgreSQL, and the server before it."""

import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from labtrail.store import connection
from tests.cluster.private_postgres import PrivatePostgres
from tests.cluster.private_slurm import answers, free_port
from tests.cluster.writers import EPOCHS, WRITERS, written_at_once
from tests.workspace import Workspace, wait_for_line, wait_until

pytestmark = pytest.mark.cluster


STUDY = """
name: s
task: distill
config: quick.yaml
space: {train.learning_rate: {low: 0.01, high: 0.1}}
trials: 3
"""


@contextmanager
def served(workspace: Workspace, uri: str, *options: str) -> Generator[str]:
    """``labtrail server`` before a database; its address."""
    workspace.variables["MLFLOW_TRACKING_URI"] = uri
    port = free_port()
    with workspace.started("labtrail", "server", "--port", str(port), *options) as process:
        wait_for_line(process, "Uvicorn running")
        wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"


def test_eight_writers_on_postgres_lose_nothing(postgres: PrivatePostgres) -> None:
    assert written_at_once(postgres.url).shape == (WRITERS * EPOCHS,)


def test_eight_writers_on_the_server_lose_nothing(postgres: PrivatePostgres, workspace: Workspace) -> None:
    with served(workspace, postgres.url) as url:
        assert written_at_once(url).shape == (WRITERS * EPOCHS,)


def test_a_run_its_study_and_upkeep_on_postgres(postgres: PrivatePostgres, workspace: Workspace) -> None:
    workspace.variables["MLFLOW_TRACKING_URI"] = postgres.url
    assert workspace.run("labtrail", "init").returncode == 0
    quick = (Path(__file__).parent / "quick.yaml").read_text()
    workspace.write("quick.yaml", quick)
    workspace.write("search.yaml", f"{STUDY}storage: {postgres.url}\n")
    shared = workspace.run("python", "-m", "projects.study", "--config", "search.yaml")
    assert shared.returncode == 2
    assert "storage: this database is MLflow's; Optuna needs one of its own" in shared.stderr
    workspace.write("search.yaml", f"{STUDY}storage: {postgres.other_url}\n")
    done = workspace.run("python", "-m", "projects.study", "--config", "search.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    client = MlflowClient(postgres.url)
    runs = connection.search(client, "tags.`labtrail.task` = 'distill'")
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert workspace.run("labtrail", "doctor").returncode == 0
    shutil.move(workspace.folder / "mlruns", workspace.folder / "moved")
    assert workspace.run("labtrail", "doctor").returncode == 1
    assert workspace.run("labtrail", "relocate", "mlruns", "moved").returncode == 0
    assert workspace.run("labtrail", "doctor").returncode == 0


def test_the_server_answers_only_to_names_it_was_given(workspace: Workspace) -> None:
    with served(workspace, "sqlite:///mlflow.db", "--allow", "head.cluster") as url:
        port = int(url.rpartition(":")[2])
        for name, status in (("head.cluster", 200), (f"head.cluster:{port}", 200), ("evil.example", 403)):
            assert status_for(port, name) == status


def status_for(port: int, host: str) -> int:
    """Status of an answer to a client that calls the server by this name."""
    words = ["GET /api/2.0/mlflow/experiments/search?max_results=1 HTTP/1.1", f"Host: {host}", "Connection: close"]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.sendall("\r\n".join([*words, "", ""]).encode())
        return int(line.recv(100).split()[1])

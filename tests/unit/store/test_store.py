"""The store's address is absolute, and its first use is safe."""

import multiprocessing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from labtrail.errors import ClaimError
from labtrail.store import connection


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{here}/mlflow.db"),
        ("sqlite:///runs.db", "sqlite:///{here}/runs.db"),
        ("sqlite:////abs/runs.db", "sqlite:////abs/runs.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_address_is_absolute(given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert connection.tracking_uri() == expected.format(here=tmp_path)


def _initialise(_index: int) -> dict[str, str]:
    return connection.initialise(["a", "b"])


@pytest.mark.slow
def test_first_use_by_eight_processes_at_once(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        answers = pool.map(_initialise, range(8), chunksize=1)
    assert all(answer == answers[0] for answer in answers)
    names = [
        search_experiment.name
        for search_experiment in MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()
    ]
    assert sorted(names) == ["Default", "a", "b"]


def test_deleted_experiment_is_named() -> None:
    client = connection.current_store()
    experiment = connection.initialise(["gone"])["gone"]
    client.delete_experiment(experiment)
    with pytest.raises(ClaimError, match=f"mlflow experiments restore -x {experiment}"):
        connection.initialise(["gone"])

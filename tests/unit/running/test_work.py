"""Which run has finished a piece of work, told by the store's tables alone."""

from collections.abc import Generator
from pathlib import Path

import pytest

from labtrail.config import Config
from labtrail.record import Record
from labtrail.running.run import Run
from labtrail.running.task import Task
from labtrail.running.work import Work, finished_run, work_of
from labtrail.store import connection, contract


def toy(_config: Config, _run: Run) -> Generator[Record]:
    yield Record(0, {})


WORK = work_of(Task(name="toy", config=Config, function=toy, default=Path("toy.yaml")), Config())


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return connection.initialise(["toy"])["toy"]


def run_that(experiment: str, status: str, **tags: str) -> str:
    client = connection.current_store()
    named = {contract.KEY: WORK.key(1), contract.TASK: "toy"}
    named |= {f"labtrail.{name}": value for name, value in tags.items()}
    run_id = client.create_run(experiment, tags=named).info.run_id
    client.set_terminated(run_id, status)
    return run_id


def test_the_newest_that_finished_counts(experiment: str) -> None:
    assert finished_run(WORK, 1) is None
    run_that(experiment, "FINISHED", ended="FINISHED")
    newest = run_that(experiment, "FINISHED", ended="FINISHED")
    # `mlflow run` overwrites the status of a run that was killed; a pointer holds no results.
    run_that(experiment, "FINISHED", ended="KILLED")
    run_that(experiment, "FINISHED", same_as=newest)
    run_that(experiment, "FAILED")
    done = finished_run(WORK, 1)
    assert done is not None
    assert done.run_id == newest
    assert finished_run(WORK, 2) is None
    connection.current_store().delete_run(newest)
    earlier = finished_run(WORK, 1)
    assert earlier is not None
    assert earlier.run_id != newest


def test_a_run_of_other_code_is_no_answer(experiment: str) -> None:
    run_that(experiment, "FINISHED", ended="FINISHED")
    unknown = finished_run(WORK, 1)
    assert unknown is not None
    assert "code is unknown" in unknown.remark
    run_that(experiment, "FINISHED", ended="FINISHED", code="0" * 16)
    assert finished_run(WORK, 1) is None
    same = run_that(experiment, "FINISHED", ended="FINISHED", code=WORK.code.digest)
    assert finished_run(WORK, 1) == (same, "")
    # Of several, one of the present code is the answer.
    run_that(experiment, "FINISHED", ended="FINISHED", code="1" * 16)
    assert finished_run(WORK, 1) == (same, "")


@pytest.mark.parametrize("uri", ["", "http://127.0.0.1:1", "file:///tmp/mlruns"])
def test_what_only_mlflow_can_tell_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert finished_run(WORK, 1) is None
    assert list(tmp_path.iterdir()) == []


def test_the_code_is_that_of_function_and_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"{__name__}.toy" in Work(WORK.task, Config(), ()).code.definitions
    assert (tmp_path / ".labtrail/cache/code-toy.json").is_file()

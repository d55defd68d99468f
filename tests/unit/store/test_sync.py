"""Runs copied to another store are the same runs, however often and after whatever interruption."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

from labtrail.errors import LabtrailError
from labtrail.files import sha256_of
from labtrail.query.find import find_run
from labtrail.query.query import Query
from labtrail.store import connection, contract
from labtrail.store.sync import sync

RUNS = 10


@pytest.fixture
def stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> tuple[MlflowClient, MlflowClient]:
    """Two stores, of which the first has runs."""
    monkeypatch.chdir(tmp_path)
    source, target = (MlflowClient(f"sqlite:///{tmp_path / name}.db") for name in ("node", "home"))
    experiment = source.create_experiment("distill", str(tmp_path / "node"))
    ids: list[str] = []
    for number in range(getattr(request, "param", RUNS)):
        tags = {contract.TASK: "distill", contract.KEY: f"{number:016x}", contract.ENDED: "FINISHED", "a": "é" * 300}
        if ids:
            tags |= {contract.READS: f"{ids[0]} {ids[-1]}", contract.PARENT: ids[0]}
        run_id = source.create_run(experiment, 1000 + number, run_name=f"run {number}").info.run_id
        points = [Metric("train/loss", number + step / 7, 5000 + step, step) for step in range(30)]
        params = [
            Param("cfg.seed", str(number)),
            Param("cfg.teacher", ids[0] if ids else ""),
            Param("cfg.x", "y" * 500),
        ]
        source.log_batch(run_id, points, params, [RunTag(key, value) for key, value in tags.items()])
        source.log_inputs(run_id, [DatasetInput(Dataset("digits", "abc", "local", "{}"))])
        source.log_text(run_id, f"number {number}", "tables/a.csv")
        source.set_terminated(run_id, "FINISHED", 9000 + number)
        ids.append(run_id)
    # One that has not ended, and one that was stopped and is at work again.
    source.create_run(experiment)
    resumed = source.create_run(experiment).info.run_id
    source.set_terminated(resumed, "KILLED")
    source.update_run(resumed, "RUNNING")
    return source, target


def content(client: MlflowClient) -> dict[str, Any]:
    """All that a store says of its runs, by their first id."""
    found = {}
    for run in connection.search(client, ""):
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        points = {name: [(one.step, one.timestamp, one.value) for one in own] for name, own in history.items()}
        folder = Path(str(run.info.artifact_uri))
        files = {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*.*")}
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        inputs = [dataset_input_.dataset.digest for dataset_input_ in run.inputs.dataset_inputs] if run.inputs else []
        found[run.info.run_id] = (info, run.data.params, run.data.tags, points, files, inputs)
    return found


def assert_same(source: MlflowClient, target: MlflowClient) -> None:
    there = content(target)
    ids = {found[2][contract.SOURCE_RUN]: run_id for run_id, found in there.items()}
    ended = {run_id: found for run_id, found in content(source).items() if found[0][1] == "FINISHED"}
    assert ids.keys() == ended.keys()
    own = {contract.SOURCE_RUN, contract.SYNCED}
    for run_id, (info, params, tags, *rest) in ended.items():
        copied = there[ids[run_id]]
        assert (info, params, *rest) == (copied[0], copied[1], *copied[3:])
        naming = {contract.READS, contract.PARENT}
        renamed = {key: " ".join(ids[word] for word in value.split()) for key, value in tags.items() if key in naming}
        assert {key: value for key, value in copied[2].items() if key not in own} == tags | renamed


@pytest.mark.parametrize("stores", [50], indirect=True)
def test_a_second_copy_changes_nothing(stores: tuple[MlflowClient, MlflowClient]) -> None:
    source, target = stores
    assert sync(source, target) == (50, 0, 2)
    assert_same(source, target)
    before = content(target)
    assert sync(source, target) == (0, 50, 2)
    assert content(target) == before
    frames = [Query("distill", client=client).history() for client in stores]
    assert len(frames[0]) == len(frames[1]) == 50 * 30


@pytest.mark.parametrize("method", ["log_batch", "log_artifacts", "set_terminated", "set_tag"])
def test_an_interrupted_copy_is_completed(stores: tuple[MlflowClient, MlflowClient], method: str, monkeypatch) -> None:
    source, target = stores
    real, calls = getattr(MlflowClient, method), 0

    def fails(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise ConnectionError("the line is down")
        return real(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, fails)
        with pytest.raises(ConnectionError):
            sync(source, target)
    assert sync(source, target).copied >= RUNS - 8
    assert_same(source, target)


def test_a_run_that_went_on_is_copied_again(stores: tuple[MlflowClient, MlflowClient]) -> None:
    source, target = stores
    sync(source, target)
    run_id = next(run_id for run_id, found in content(source).items() if found[0][0] == "run 3")
    source.log_metric(run_id, "train/loss", 0.5, 9999, 30)
    source.delete_tag(run_id, "a")
    source.set_terminated(run_id, "FINISHED", 99_999)
    assert sync(source, target).copied == 1
    assert_same(source, target)


def test_an_old_id_leads_to_the_new_run(stores: tuple[MlflowClient, MlflowClient]) -> None:
    source, target = stores
    sync(source, target)
    old = next(run_id for run_id, found in content(source).items() if found[0][0] == "run 7")
    found = find_run(old, "distill", target)
    assert found["run_id"] != old
    assert found["cfg.seed"] == "7"


def test_a_store_is_not_copied_to_itself(stores: tuple[MlflowClient, MlflowClient]) -> None:
    relative = MlflowClient("sqlite:///node.db")
    with pytest.raises(LabtrailError, match="source and target are the same store"):
        sync(relative, stores[0])


def test_a_name_stays_that_of_the_copy_after_its_source_is_gone(stores: tuple[MlflowClient, MlflowClient]) -> None:
    source, target = stores
    sync(source, target)
    runs = sorted(connection.search(source, f"tags.`{contract.READS}` != ''"), key=lambda run: run.info.start_time or 0)
    last = runs[-1]
    first = last.data.tags[contract.READS].split()[0]
    source.delete_run(first)
    source.set_tag(last.info.run_id, "note", "more")
    sync(source, target)
    there = {
        run.data.tags[contract.SOURCE_RUN]: run for run in connection.search(target, f"tags.`{contract.KEY}` != ''")
    }
    named = there[last.info.run_id].data.tags[contract.READS].split()
    assert named == [there[word].info.run_id for word in last.data.tags[contract.READS].split()]

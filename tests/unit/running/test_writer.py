"""Run writes what the contract says, refuses what is not a number, and claims each piece of work once."""

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from labtrail.config import Config
from labtrail.errors import ClaimError, MetricError
from labtrail.query.query import Query
from labtrail.record import DataSource, Record
from labtrail.running.claim import Claim, Identity, claim
from labtrail.running.run_status import create_scheduled, describe_given, mark_abandoned, mark_killed, mark_refused
from labtrail.running.writer import RunWriter
from labtrail.store import connection, contract

SOURCE = DataSource("wlasl50-train", "train", "data/train.csv", "ab" * 32, {"clips": 276})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def client(folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    connection.initialise(["toy"])
    return connection.current_store()


@pytest.fixture
def experiment(client: MlflowClient) -> str:
    return connection.initialise(["toy"])["toy"]


def claim_here(client: MlflowClient, own: Identity, experiment: str, *, again: bool) -> Claim:
    """As a process does that ``mlflow run`` may have given a run."""
    return claim(client, own, experiment, again, os.environ.get("MLFLOW_RUN_ID"))


def identity(key: str, seed: int = 0) -> Identity:
    return Identity("toy", f"toy-s{seed}", key, Config(seed=seed), [SOURCE], {contract.DEVICE: "cpu"})


def started(client: MlflowClient, experiment: str, key: str) -> tuple[RunWriter, Claim]:
    own = claim_here(client, identity(key), experiment, again=False)
    assert own.state == "mine"
    run = RunWriter(own.run_id, client)
    run.start(identity(key))
    return run, own


def free(own: Claim) -> None:
    """As if the process had died."""
    assert own.lock is not None
    own.lock.release()


def test_run_carries_what_the_contract_says(client: MlflowClient, experiment: str) -> None:
    run, _ = started(client, experiment, "contract")
    run.log(
        Record(0, {"train/loss": 1.5, "validation/accuracy": float(np.float32(0.5)), "lr": np.float64(0.5)}),
        {"best/epoch": 0},
    )
    run.log(Record(1, {"train/loss": 1}, {"tables/t.csv": pd.DataFrame({"a": [1]}), "note.txt": "hello"}))
    run.describe("what this is")
    run.end("FINISHED")
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "toy-s0"
    assert found.data.params["cfg.seed"] == "0"
    assert found.data.params["cfg.compute.precision"] == "no"
    assert found.data.tags[contract.TASK] == "toy"
    assert found.data.tags[contract.KEY] == "contract"
    assert found.data.tags[contract.DEVICE] == "cpu"
    assert found.data.tags[contract.NOTE] == "what this is"
    assert contract.STATUS_REASON not in found.data.tags
    assert found.data.metrics == {"train/loss": 1.0, "validation/accuracy": 0.5, "lr": 0.5, "best/epoch": 0.0}
    assert found.inputs is not None
    dataset = found.inputs.dataset_inputs[0]
    assert (dataset.dataset.name, dataset.tags[0].value) == ("wlasl50-train", "train")
    assert SOURCE.digest.startswith(dataset.dataset.digest)
    names = {artifact.path for artifact in client.list_artifacts(run.run_id)}
    assert {"config.yaml", "tables", "note.txt"} <= names
    assert (run.folder / "tables/t.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5", None, np.array([1.0]), 1j])
def test_what_is_no_finite_number_is_refused_whole(value: object, client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, f"refuse-{type(value).__name__}-{value}".replace("'", ""))
    with pytest.raises(MetricError, match="metric train/loss: expected a finite number, found"):
        run.log(Record(0, {"train/accuracy": 0.5, "train/loss": value}, {"f.txt": "x"}))  # ty: ignore[invalid-argument-type]
    assert client.get_run(run.run_id).data.metrics == {}
    assert not (run.folder / "f.txt").exists()
    free(own)


def test_more_metrics_than_one_call_takes(client: MlflowClient, experiment: str) -> None:
    run, _ = started(client, experiment, "many")
    run.log(Record(0, {f"m/{index}": index for index in range(2345)}))
    assert len(client.get_run(run.run_id).data.metrics) == 2345


def test_finished_work_is_found_and_again_runs_anew(client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, "done")
    run.end("FINISHED")
    free(own)
    assert claim_here(client, identity("done"), experiment, again=False) == Claim("finished", run.run_id)
    again = claim_here(client, identity("done"), experiment, again=True)
    assert again.state == "mine"
    assert again.run_id != run.run_id
    # Stopped, it is continued by the same command; without --again the finished one still counts.
    free(again)
    client.set_terminated(again.run_id, "KILLED")
    continued = claim_here(client, identity("done"), experiment, again=True)
    assert (continued.state, continued.run_id) == ("mine", again.run_id)
    assert claim_here(client, identity("done"), experiment, again=False) == Claim("finished", run.run_id)


def test_run_that_may_live_elsewhere_is_not_touched(client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, "elsewhere")
    free(own)
    client.set_tag(run.run_id, contract.PLACE, "another folder")
    client.set_tag(run.run_id, contract.HOST, "node7")
    with pytest.raises(ClaimError, match=r"from another folder or machine \(node7\)"):
        claim_here(client, identity("elsewhere"), experiment, again=False)
    assert claim_here(client, identity("elsewhere"), experiment, again=True).run_id != run.run_id
    client.set_tag(run.run_id, contract.ENDED, "KILLED")
    assert claim_here(client, identity("elsewhere"), experiment, again=False).run_id != ""


def test_live_work_is_busy_and_dead_work_is_taken_over(client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, "live")
    assert claim_here(client, identity("live"), experiment, again=False) == Claim("busy", run.run_id)
    free(own)
    taken = claim_here(client, identity("live"), experiment, again=False)
    assert (taken.state, taken.run_id) == ("mine", run.run_id)
    run = RunWriter(taken.run_id, client)
    run.start(identity("live"))
    assert client.get_run(run.run_id).data.tags[contract.ATTEMPTS] == "2"


def test_repeated_points_are_not_written_twice(client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, "repeat")
    run.log(Record(0, {"train/loss": 1.0}))
    run.log(Record(1, {"train/loss": 0.5}))
    run.end("KILLED", "SIGTERM")
    free(own)
    run = RunWriter(run.run_id, client)
    run.start(identity("repeat"))
    found = client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert contract.STATUS_REASON not in found.data.tags
    run.log(Record(1, {"train/loss": 0.5}))
    run.log(Record(2, {"train/loss": 0.25}))
    points = client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 0.5), (2, 0.25)]


def test_run_of_mlflow_becomes_ours_or_a_pointer(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.create_run(experiment, run_name="bold-ape-12").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", first)
    own = claim_here(client, identity("mlflow"), experiment, again=False)
    assert (own.state, own.run_id) == ("mine", first)
    run = RunWriter(first, client)
    run.start(identity("mlflow"))
    assert client.get_run(first).info.run_name == "toy-s0"
    run.end("FINISHED")
    free(own)

    second = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", second)
    assert claim_here(client, identity("mlflow"), experiment, again=False) == Claim("finished", first)
    tags = client.get_run(second).data.tags
    assert tags[contract.SAME_AS] == first
    assert contract.KEY not in tags
    client.set_terminated(second)
    found = Query("toy", client=client).tagged({contract.KEY: "mlflow"}).runs()
    assert found["run_id"].tolist() == [first]


def test_name_that_a_person_gave_stays(client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = client.create_run(experiment, run_name="for the paper").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    run, _ = started(client, experiment, "named")
    assert client.get_run(run.run_id).info.run_name == "for the paper"


def test_other_config_under_the_same_run_is_refused(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own = started(client, experiment, "first-config")
    run.end("KILLED", "SIGTERM")
    free(own)
    before = client.get_run(run.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.run_id)
    with pytest.raises(ClaimError, match="a run keeps its config"):
        claim_here(client, identity("second-config"), experiment, again=False)
    after = client.get_run(run.run_id)
    assert (after.info.status, after.data.tags, after.data.params) == (
        before.info.status,
        before.data.tags,
        before.data.params,
    )
    assert claim_here(client, identity("first-config"), experiment, again=False).state == "mine"


def test_end_counts_once_and_keeps_the_reason(client: MlflowClient, experiment: str) -> None:
    run, _ = started(client, experiment, "end")
    run.end("KILLED", "SIGTERM")
    run.end("FINISHED")
    found = client.get_run(run.run_id)
    assert found.info.status == "KILLED"
    assert found.data.tags[contract.STATUS_REASON] == "KILLED: SIGTERM"


def test_killed_run_that_its_parent_calls_finished_is_not(client: MlflowClient, experiment: str) -> None:
    run, own = started(client, experiment, "lied")
    run.end("KILLED", "SIGTERM")
    free(own)
    client.set_terminated(run.run_id, "FINISHED")
    assert claim_here(client, identity("lied"), experiment, again=False).state == "mine"


def test_finished_run_that_its_parent_calls_failed_still_is(client: MlflowClient, experiment: str) -> None:
    """`mlflow run --run-id` with a refused config leaves FAILED on a good run."""
    run, own = started(client, experiment, "slandered")
    run.end("FINISHED")
    free(own)
    client.set_terminated(run.run_id, "FAILED")
    assert claim_here(client, identity("slandered"), experiment, again=False) == Claim("finished", run.run_id)
    assert Query("toy", client=client).tagged({contract.KEY: "slandered"}).runs()["status"].tolist() == ["FINISHED"]


def test_stop_before_the_start_closes_the_given_run(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    mark_abandoned("SIGTERM")
    found = client.get_run(given)
    assert found.info.status == "KILLED"
    assert found.data.tags[contract.STATUS_REASON] == "KILLED: SIGTERM"


def test_refusal_and_note_reach_the_given_run(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    mark_refused("a.yaml: loss.alfa: unknown key")
    describe_given("fetched")
    tags = client.get_run(given).data.tags
    assert tags[contract.STATUS_REASON] == "REFUSED: a.yaml: loss.alfa: unknown key"
    assert tags[contract.NOTE] == "fetched"


def test_two_runs_that_bring_the_same_new_data_set_both_have_it(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow looks for a data set and then adds it, so that another run may come in between."""
    real, calls = MlflowClient.log_inputs, []

    def late(self: MlflowClient, run_id: str, datasets: list) -> None:
        calls.append(run_id)
        if len(calls) < 3:
            raise MlflowException("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.name")
        real(self, run_id, datasets)

    monkeypatch.setattr(MlflowClient, "log_inputs", late)
    own = claim_here(client, identity("collision"), experiment, again=False)
    RunWriter(own.run_id).start(identity("collision"))
    assert len(calls) == 3
    inputs = client.get_run(own.run_id).inputs
    assert inputs is not None
    assert len(inputs.dataset_inputs) == 1
    free(own)


def reserved(key: str, experiment: str, monkeypatch: pytest.MonkeyPatch) -> str:
    run_id = create_scheduled("toy", experiment, "toy-s0", {contract.KEY: key})
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


def test_a_reserved_run_is_begun_by_its_job(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = reserved("reserved", experiment, monkeypatch)
    assert client.get_run(run_id).info.status == "SCHEDULED"
    run, own = started(client, experiment, "reserved")
    assert run.run_id == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    free(own)


def test_work_that_was_begun_elsewhere_while_a_job_waited_goes_on_there(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, own = started(client, experiment, "twice")
    run_id = reserved("twice", experiment, monkeypatch)
    busy = claim_here(client, identity("twice"), experiment, again=False)
    assert (busy.state, busy.run_id) == ("busy", first.run_id)
    # The process at work dies: its run is continued, and the reserved one stays a pointer.
    free(own)
    mine = claim_here(client, identity("twice"), experiment, again=False)
    assert (mine.state, mine.run_id) == ("mine", first.run_id)
    first.end("FINISHED")
    free(mine)
    done = claim_here(client, identity("twice"), experiment, again=False)
    assert (done.state, done.run_id) == ("finished", first.run_id)
    assert client.get_run(run_id).data.tags[contract.SAME_AS] == first.run_id
    assert Query("toy").runs()["run_id"].tolist().count(first.run_id) == 1
    assert run_id not in Query("toy").ended("FINISHED", "KILLED", "SCHEDULED").runs()["run_id"].tolist()


def test_of_two_reserved_runs_each_job_begins_its_own(
    client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = reserved("both", experiment, monkeypatch)
    run_id = reserved("both", experiment, monkeypatch)
    run, own = started(client, experiment, "both")
    assert run.run_id == run_id != other
    run.end("FINISHED")
    free(own)
    monkeypatch.setenv("MLFLOW_RUN_ID", other)
    late = claim_here(client, identity("both"), experiment, again=False)
    assert (late.state, late.run_id) == ("finished", run_id)


def test_only_open_runs_are_given_up(client: MlflowClient, experiment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = reserved("given up", experiment, monkeypatch)
    mark_killed(run_id, "its job is gone")
    assert client.get_run(run_id).data.tags[contract.STATUS_REASON] == "KILLED: its job is gone"
    assert client.get_run(run_id).info.status == "KILLED"
    run, own = started(client, experiment, "given up")
    assert contract.STATUS_REASON not in client.get_run(run_id).data.tags
    run.end("FINISHED")
    free(own)
    mark_killed(run_id, "its job is gone")
    assert client.get_run(run_id).info.status == "FINISHED"

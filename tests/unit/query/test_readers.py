"""A store read by SQL and by MLflow's public calls gives the same frames, on every kind of store."""

import math
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from labtrail.errors import LabtrailError
from labtrail.query.database import KNOWN_SCHEMAS, open_database
from labtrail.query.query import Query, read_points, read_runs
from labtrail.query.selection import Selection, frame_of, tidy
from labtrail.store import connection, contract

_TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=12)
_PARAM = st.one_of(_TEXT, st.just("x" * 500), st.just("it's"), st.just('a "quoted" one'), st.just(""))
_METRIC = st.sampled_from(["train/loss", "validation/accuracy", "test/accuracy", "best/é"])
_POINT = st.tuples(
    _METRIC,
    st.integers(0, 3),
    st.integers(0, 5),
    st.one_of(st.floats(-1e300, 1e300), st.sampled_from([math.nan, math.inf, -math.inf])),
)
_RUN = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["FINISHED", "FAILED", "KILLED", "RUNNING"]),
        "ended": st.sampled_from(["", "FINISHED", "KILLED"]),
        "task": st.sampled_from(["a", "b", ""]),
        "campaign": st.sampled_from(["", "one", "ünï", "it's"]),
        "deleted": st.booleans(),
        "nested": st.booleans(),
        "member": st.booleans(),
        "start": st.integers(0, 2),
        "params": st.dictionaries(st.sampled_from(["cfg.seed", "cfg.naïve", "raw"]), _PARAM),
        "points": st.lists(_POINT, max_size=12),
    }
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder: Path = tmp_path_factory.mktemp("readers")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        connection.initialise(["a"])
        yield connection.current_store()


def written(client: MlflowClient, runs: list[dict], name: str) -> None:
    """An experiment with these runs."""
    experiment = client.create_experiment(name)
    parent = ""
    for run in runs:
        tags = {contract.TASK: run["task"], contract.CAMPAIGN: run["campaign"], contract.ENDED: run["ended"]}
        if run["nested"] and parent:
            tags[contract.PARENT] = parent
        if run["member"]:
            tags[contract.member_of("one")] = "cell"
        kept = [RunTag(key, value) for key, value in tags.items() if value]
        run_id = client.create_run(experiment, start_time=run["start"]).info.run_id
        points = [Metric(key, value, timestamp, step) for key, step, timestamp, value in run["points"]]
        client.log_batch(run_id, points, [Param(key, value) for key, value in run["params"].items()], kept)
        if run["status"] != "RUNNING":
            client.set_terminated(run_id, run["status"])
        if run["deleted"]:
            client.delete_run(run_id)
        parent = run_id


def assert_alike(client: MlflowClient, selection: Selection) -> None:
    database = open_database(client.tracking_uri)
    assert database is not None
    fast, plain = database.runs(selection), read_runs(client, selection)
    # NaN is not a value that equals itself: the frames below compare it.
    assert [run._replace(metrics={}) for run in fast] == [run._replace(metrics={}) for run in plain]
    pd.testing.assert_frame_equal(frame_of(fast), frame_of(plain))
    names = sorted({name for run in plain for name in run.metrics})
    ids = [run.run_id for run in plain]
    fast_points, plain_points = database.points(ids, names), read_points(client, plain, names)
    pd.testing.assert_frame_equal(tidy(fast_points, ids, names), tidy(plain_points, ids, names))


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(runs=st.lists(_RUN, min_size=3, max_size=8))
def test_both_ways_agree_on_random_stores(client: MlflowClient, runs: list[dict]) -> None:
    written(client, runs, uuid.uuid4().hex)
    assert_alike(client, Selection())
    assert_alike(client, Selection(tags={contract.TASK: "a", contract.CAMPAIGN: "it's"}))
    assert_alike(client, Selection(params={"cfg.seed": "x" * 500}))
    assert_alike(client, Selection(campaign="one"))
    assert_alike(client, Selection(campaign="it's", tags={contract.TASK: "b"}))
    newest = [run.run_id for run in read_runs(client, Selection())[-3:]]
    assert_alike(client, Selection(run_ids=tuple(newest)))


def test_runs_of_deleted_experiments_are_gone_for_both(client: MlflowClient) -> None:
    written(client, [_run()], "doomed")
    doomed = client.get_experiment_by_name("doomed")
    assert doomed is not None
    client.delete_experiment(doomed.experiment_id)
    assert_alike(client, Selection())


def test_the_reader_cannot_write(client: MlflowClient) -> None:
    database = open_database(client.tracking_uri)
    assert database is not None
    with database._reading() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(text("DELETE FROM runs"))


def test_the_schema_of_the_installed_mlflow_is_known(client: MlflowClient) -> None:
    with create_engine(client.tracking_uri).connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() in KNOWN_SCHEMAS


def test_an_unknown_schema_is_read_by_public_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("labtrail.query.database.KNOWN_SCHEMAS", frozenset())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    other = MlflowClient(uri)
    written(other, [_run()], "one")
    with caplog.at_level("INFO", logger="labtrail"):
        assert open_database(uri) is None
    assert "is not known here" in caplog.text
    assert len(Query("a", client=other).runs()) == 1


def test_a_store_of_a_newer_mlflow_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(MlflowClient(f"sqlite:///{tmp_path / 'first.db'}"), [_run()], "one")
    # Under another name, since MLflow keeps the first one open.
    (tmp_path / "first.db").rename(tmp_path / "mlflow.db")
    with create_engine(f"sqlite:///{tmp_path / 'mlflow.db'}").begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(LabtrailError, match="another version of MLflow") as caught:
        Query("a").runs()
    assert "\n" not in str(caught.value)


def _run() -> dict:
    return {
        "status": "FINISHED",
        "ended": "FINISHED",
        "task": "a",
        "campaign": "",
        "deleted": False,
        "nested": False,
        "member": False,
        "start": 1,
        "params": {"cfg.seed": "0"},
        "points": [("train/loss", 0, 0, 1.0)],
    }

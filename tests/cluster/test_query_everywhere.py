"""The same runs on a SQLite file, on PostgreSQL and behind a server give the same frames."""

from collections.abc import Generator
from contextlib import ExitStack
from typing import NamedTuple

import pandas as pd
import pytest
from mlflow import MlflowClient

from labtrail.query import database
from labtrail.query.query import Query
from labtrail.report.build import build
from labtrail.report.config import ReportConfig
from labtrail.store import connection, contract
from tests.cluster import private_postgres
from tests.cluster.private_postgres import PrivatePostgres
from tests.cluster.test_stores import served
from tests.invented import fill
from tests.workspace import Workspace

pytestmark = pytest.mark.cluster

# They differ from store to store by nature.
_OF_THE_STORE = ["run_id", "experiment_id"]


class Frames(NamedTuple):
    """What a store answers, with names in the place of ids."""

    runs: pd.DataFrame
    history: pd.DataFrame
    artifacts: pd.DataFrame
    models: pd.DataFrame
    left_out: dict[str, int]
    groups: pd.DataFrame


def asked(client: MlflowClient) -> Frames:
    """Fills the current store, and asks it everything."""
    fill(methods=["none", "logit"], alphas=[0.1, 0.5], seeds=2, epochs=4, params=3)
    first = connection.search(client, "", order_by=["attributes.start_time ASC"])
    client.delete_run(next(run for run in first if run.info.run_name == "none-a0.1-s0").info.run_id)
    pointer = next(run for run in first if run.info.run_name == "none-a0.1-s1").info.run_id
    client.set_tag(pointer, contract.SAME_AS, "x")
    open_run = client.create_run(first[0].info.experiment_id, tags={contract.TASK: "distill"}).info.run_id
    kept = next(run for run in first if run.info.run_name == "logit-a0.5-s1").info.run_id
    client.log_metric(kept, "odd/ü", 0.1 + 0.2, step=2)
    client.log_text(kept, "text", "figures/one.txt")
    client.create_registered_model("model")
    client.create_model_version("model", f"runs:/{kept}/figures", run_id=kept)
    client.set_registered_model_alias("model", "best", "1")
    asked = Query("distill", client=client)
    runs, history, artifacts, models = asked.runs(), asked.history(), asked.artifacts(), asked.models()
    names = dict(zip(runs["run_id"], runs["name"], strict=True))
    assert open_run not in names
    history["run_id"], artifacts["run_id"], models["run_id"] = (
        frame["run_id"].map(names) for frame in (history, artifacts, models)
    )
    groups = build(ReportConfig(campaign="round")).tables["tables/groups.csv"].drop(columns="run_ids")
    return Frames(
        runs.drop(columns=_OF_THE_STORE).sort_values("name", ignore_index=True),
        history.sort_values(["run_id", "metric", "step"], ignore_index=True),
        artifacts,
        models.drop(columns="source"),
        dict(asked.left_out),
        groups,
    )


@pytest.fixture(scope="class")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, Frames]]:
    """The answers of the three stores."""
    if private_postgres.missing():
        pytest.skip("PostgreSQL not installed; apt-get install --no-install-recommends postgresql")
    found = {}
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        postgres = PrivatePostgres(tmp_path_factory.mktemp("postgres"))
        stack.callback(postgres.stop)
        postgres.start()
        behind = Workspace(tmp_path_factory.mktemp("server"))
        server = stack.enter_context(served(behind, "sqlite:///server.db"))
        for name, uri in (("sqlite", "sqlite:///mlflow.db"), ("postgresql", postgres.url), ("server", server)):
            patch.chdir(tmp_path_factory.mktemp(name))
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            found[name] = asked(connection.current_store())
        yield found


class TestSameEverywhere:
    """What one store answers, all answer."""

    def test_fast_path_is_taken_where_there_is_one(self, postgres: PrivatePostgres) -> None:
        MlflowClient(postgres.url).search_experiments()
        assert database.open_database(postgres.url) is not None
        assert database.open_database("http://127.0.0.1:5000") is None

    @pytest.mark.parametrize("other", ["postgresql", "server"])
    def test_frames_are_equal(self, everywhere: dict[str, Frames], other: str) -> None:
        one, two = everywhere["sqlite"], everywhere[other]
        for name in ("runs", "history", "artifacts", "models", "groups"):
            pd.testing.assert_frame_equal(getattr(one, name), getattr(two, name), obj=name)
        assert one.left_out == two.left_out == {"failed": 1, "points to another run": 1, "running": 1}
        assert len(one.runs) == 4
        assert one.models[["name", "version", "aliases", "run_id"]].to_numpy().tolist() == [
            ["model", 1, "best", "logit-a0.5-s1"]
        ]

    def test_what_a_server_told_once_is_kept(self, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        with served(workspace, "sqlite:///server.db") as url:
            monkeypatch.chdir(workspace.folder)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            ids = fill(methods=["logit"], alphas=[0.5], seeds=2, epochs=3)
            before = Query("distill").history(["train/loss"])
            assert len(list((workspace.folder / ".labtrail/cache/history").glob("*.parquet"))) == 2
            client = connection.current_store()
            calls: list[str] = []
            original = MlflowClient.get_metric_history

            def counted(self: MlflowClient, run_id: str, key: str, *rest: int) -> object:
                calls.append(key)
                return original(self, run_id, key, *rest)

            monkeypatch.setattr(MlflowClient, "get_metric_history", counted)
            pd.testing.assert_frame_equal(Query("distill").history(["train/loss"]), before)
            assert calls == []
            both = Query("distill").history(["train/loss", "test/accuracy"])
            assert calls == ["test/accuracy"] * 2
            assert len(both) == len(before) + 2
            # A run that goes on ends at another time: nothing old is told of it.
            client.update_run(ids[0], status="RUNNING")
            client.log_metric(ids[0], "train/loss", 7.0, step=3)
            client.set_terminated(ids[0])
            assert Query("distill").only([ids[0]]).history(["train/loss"])["value"].iloc[-1] == 7.0

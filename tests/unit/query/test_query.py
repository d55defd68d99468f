"""Query pages, filters, keeps the last value of a step and says what it left out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from labtrail.errors import QueryError
from labtrail.query.find import artifact, artifact_names, find_run
from labtrail.query.query import Query
from labtrail.store import connection, contract


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder: Path = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        ids = connection.initialise(["toy", "other"])
        client = connection.current_store()
        for seed in range(3):
            _run(client, ids["toy"], seed, "FINISHED")
        _run(client, ids["other"], 3, "FINISHED")
        _run(client, ids["toy"], 4, "FAILED")
        _run(client, ids["toy"], 5, "RUNNING")
        pointer = _run(client, ids["toy"], 6, "FINISHED")
        client.set_tag(pointer, contract.SAME_AS, "x")
        client.delete_run(_run(client, ids["toy"], 7, "FINISHED"))
        yield client


def _run(client: MlflowClient, experiment: str, seed: int, status: str) -> str:
    run_id = client.create_run(experiment, run_name=f"toy-s{seed}").info.run_id
    points = [Metric("train/loss", 1.0 / (step + 1), step, step) for step in range(4)]
    points.append(Metric("train/loss", 9.0, 99, 2))
    tags = [RunTag(contract.TASK, "toy"), RunTag(contract.CAMPAIGN, "even" if seed % 2 == 0 else "odd")]
    client.log_batch(run_id, metrics=points, params=[Param("cfg.seed", str(seed)), Param("seed", "raw")], tags=tags)
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def test_finished_runs_wherever_they_are(client: MlflowClient) -> None:
    query = Query("toy", client=client)
    runs = query.runs()
    assert runs["cfg.seed"].tolist() == ["0", "1", "2", "3"]
    assert runs["experiment_id"].nunique() == 2
    assert "seed" not in runs
    assert runs["train/loss"].tolist() == [0.25] * 4
    assert query.summary() == "4 runs; left out: 1 failed, 1 points to another run, 1 running"


def test_filters(client: MlflowClient) -> None:
    assert Query("toy", client=client).configured({"seed": 1}).runs()["name"].tolist() == ["toy-s1"]
    assert Query("toy", client=client).campaign("even").runs()["cfg.seed"].tolist() == ["0", "2"]
    assert Query("toy", client=client).ended("FAILED").runs()["cfg.seed"].tolist() == ["4"]
    assert Query("absent", client=client).runs().empty
    run_id = Query("toy", client=client).configured({"seed": 1}).runs()["run_id"].item()
    assert Query(client=client).only([run_id]).runs()["run_id"].tolist() == [run_id]


def test_history_keeps_the_last_value_of_a_step(client: MlflowClient) -> None:
    history = Query("toy", client=client).configured({"seed": 0}).history()
    assert history["step"].tolist() == [0, 1, 2, 3]
    assert history["value"].tolist() == [1.0, 0.5, 9.0, 0.25]
    assert set(history["metric"]) == {"train/loss"}
    assert Query("toy", client=client).history(["train/loss"])["run_id"].nunique() == 4
    with pytest.raises(QueryError, match="metric 'train/los': no run has it; near ones: train/loss"):
        Query("toy", client=client).history(["train/los"])
    bare = client.create_run("1", tags={contract.TASK: "bare"}).info.run_id
    with pytest.raises(QueryError, match="metric 'train/loss': no run has it; they have: none"):
        Query(client=client).only([bare]).ended("RUNNING").history(["train/loss"])


def test_a_campaign_has_the_runs_that_its_cells_rest_on(client: MlflowClient) -> None:
    run_id = Query("toy", client=client).campaign("odd").runs()["run_id"].iloc[0]
    client.set_tag(run_id, contract.member_of("third"), "teachers-seed=0")
    assert Query("toy", client=client).campaign("third").runs()["run_id"].tolist() == [run_id]
    assert Query("toy", client=client).campaign("thirdly").runs().empty
    client.delete_tag(run_id, contract.member_of("third"))


def test_pages_past_a_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    experiment = connection.initialise(["many"])["many"]
    client = connection.current_store()
    for _ in range(1010):
        client.create_run(experiment, tags={contract.TASK: "many"})
    assert len(Query("many", client=client).ended("RUNNING").runs()) == 1010


@pytest.fixture
def ids(client: MlflowClient) -> dict[str, str]:
    """Run name -> id of all active runs."""
    return {str(run.info.run_name): run.info.run_id for run in connection.search(client, "")}


def test_a_run_is_found_by_id_by_filter_and_as_the_latest(client: MlflowClient, ids: dict[str, str]) -> None:
    assert find_run(ids["toy-s1"], "toy", client)["name"] == "toy-s1"
    assert find_run("params.`cfg.seed` = '2'", "toy", client)["cfg.seed"] == "2"
    assert find_run("latest", "toy", client)["run_id"] in ids.values()


def test_a_pointer_leads_to_its_run(client: MlflowClient, ids: dict[str, str]) -> None:
    client.set_tag(ids["toy-s6"], contract.SAME_AS, ids["toy-s0"])
    assert find_run(ids["toy-s6"], "toy", client)["run_id"] == ids["toy-s0"]


@pytest.mark.parametrize(
    ("wanted", "task", "problem"),
    [
        ("0" * 32, "toy", "no such run in .*finished ones: .*toy-s0"),
        ("toy-s4", "toy", r"toy toy-s4 is FAILED, not FINISHED \(no reason was left\); repeat the command"),
        ("toy-s5", "toy", "is RUNNING, not FINISHED"),
        ("toy-s0", "other", "of task toy, expected other"),
        ("params.`cfg.seed` != '0'", "toy", "[0-9] finished runs of task toy: .*name one"),
        ("params.`cfg.seed` = '77'", "toy", "no finished run of task toy; finished ones"),
        ("latest", "nothing", "no run of task nothing has finished yet"),
        ("nonsense ((", "toy", "neither a run id nor 'latest' nor a filter"),
    ],
)
def test_a_run_that_cannot_be_meant_is_refused_in_one_line(
    wanted: str, task: str, problem: str, client: MlflowClient, ids: dict[str, str]
) -> None:
    with pytest.raises(QueryError, match=problem) as caught:
        find_run(ids.get(wanted, wanted), task, client)
    assert "\n" not in str(caught.value)


def test_deleted_runs_are_not_found(client: MlflowClient, ids: dict[str, str]) -> None:
    gone = client.create_run("1", tags={contract.TASK: "toy"}).info.run_id
    client.delete_run(gone)
    with pytest.raises(QueryError, match="no such run"):
        find_run(gone, "toy", client)


def test_artifacts_are_read_where_they_lie_or_named_when_missing(client: MlflowClient, ids: dict[str, str]) -> None:
    client.log_text(ids["toy-s0"], "one", "checkpoints/a.txt")
    client.log_text(ids["toy-s0"], "two", "b.txt")
    path = artifact(ids["toy-s0"], "checkpoints/a.txt", client)
    assert path.read_text() == "one"
    assert ids["toy-s0"] in str(path)
    assert artifact(ids["toy-s0"], "b.txt", client).read_text() == "two"
    assert artifact_names(ids["toy-s0"], "checkpoints", client) == ["a.txt"]
    assert artifact_names(ids["toy-s0"], "nothing", client) == []
    with pytest.raises(QueryError, match=r"no artifact checkpoints/c\.txt; it has a\.txt there"):
        artifact(ids["toy-s0"], "checkpoints/c.txt", client)
    with pytest.raises(QueryError, match="it has nothing in figures"):
        artifact(ids["toy-s0"], "figures/c.png", client)

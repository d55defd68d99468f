"""4 epochs == 2 + an end of some kind + 2, bit for bit, and one run is left to queries."""

import signal

import pandas as pd
import pytest

from tests.workspace import Workspace, assert_same_weights, kill_tree, wait_for_line

_TIMES = ("system/",)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Workspace, str]:
    """An uninterrupted run: number of processes, its folder and its id."""
    workspace = Workspace(tmp_path_factory.mktemp("reference"))
    done = workspace.spoter("--processes", str(request.param))
    assert done.returncode == 0, done.stderr
    return request.param, workspace, workspace.query().runs()["run_id"].item()


def _history(workspace: Workspace, run_id: str) -> pd.DataFrame:
    client = workspace.client()
    names = sorted(name for name in client.get_run(run_id).data.metrics if not name.startswith(_TIMES))
    points = [
        (point.key, point.step, point.value) for name in names for point in client.get_metric_history(run_id, name)
    ]
    return pd.DataFrame(points, columns=["metric", "step", "value"])


@pytest.mark.parametrize("end", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_continues_bitwise_after(end: str, reference: tuple[int, Workspace, str], workspace: Workspace) -> None:
    processes, whole, whole_id = reference
    command = ["python", "-m", "projects.spoter", "--config", "tiny.yaml", "--processes", str(processes)]
    with workspace.started(*command) as process:
        wait_for_line(process, "step 1 ")
        if end == "SIGKILL":
            kill_tree(process.pid)
        else:
            process.send_signal(signal.Signals[end])
        status = process.wait(timeout=60)
    assert status != 0

    stopped = workspace.query(statuses=("RUNNING", "KILLED", "FAILED")).runs()
    assert len(stopped) == 1
    if end != "SIGKILL":
        assert stopped["status"].item() == "KILLED"
        assert stopped["labtrail.status_reason"].item() == f"KILLED: {end}"

    done = workspace.spoter("--processes", str(processes))
    assert done.returncode == 0, done.stderr
    assert "step 0 " not in done.stderr, "it started over instead of continuing"
    runs = workspace.query(statuses=("FINISHED", "RUNNING", "KILLED", "FAILED")).runs()
    assert runs["run_id"].tolist() == stopped["run_id"].tolist()
    assert runs["status"].item() == "FINISHED"
    assert runs["labtrail.attempts"].item() == "2"
    assert "labtrail.status_reason" not in runs
    run_id = runs["run_id"].item()
    pd.testing.assert_frame_equal(_history(workspace, run_id), _history(whole, whole_id), check_exact=True)
    assert_same_weights(workspace.artifacts(run_id), whole.artifacts(whole_id))


def test_continues_bitwise_in_bf16(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = ["--compute.precision", "bf16", "--train.max_frames", "16"]
    whole = Workspace(tmp_path_factory.mktemp("whole"))
    assert whole.spoter(*options).returncode == 0
    with workspace.started("python", "-m", "projects.spoter", "--config", "tiny.yaml", *options) as process:
        wait_for_line(process, "step 1 ")
        kill_tree(process.pid)
    done = workspace.spoter(*options)
    assert done.returncode == 0, done.stderr
    ids = [one.query().runs()["run_id"].item() for one in (workspace, whole)]
    pd.testing.assert_frame_equal(_history(workspace, ids[0]), _history(whole, ids[1]), check_exact=True)
    assert_same_weights(workspace.artifacts(ids[0]), whole.artifacts(ids[1]))


def test_mlflow_run_continues_the_earlier_run(workspace: Workspace) -> None:
    command = ["mlflow", "run", ".", "-e", "spoter", "--env-manager", "local", "--experiment-name", "spoter"]
    command += ["-P", "config=tiny.yaml"]
    with workspace.started(*command) as process:
        wait_for_line(process, "step 1 ")
        # SIGTERM to mlflow alone would leave its child at work, were it not tied to its parent's life.
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        lines = process.stderr.read() if process.stderr else ""
    first = workspace.query(statuses=("KILLED", "FAILED", "RUNNING")).runs()
    assert first["labtrail.status_reason"].tolist() == ["KILLED: SIGTERM"], lines

    done = workspace.mlflow_run("spoter", "-P", "config=tiny.yaml")
    assert done.returncode == 0, done.stderr
    runs = workspace.query(statuses=("FINISHED", "KILLED", "FAILED", "RUNNING"))
    assert runs.runs()["run_id"].tolist() == first["run_id"].tolist()
    assert runs.runs()["status"].item() == "FINISHED"
    history = _history(workspace, first["run_id"].item())
    assert history[history["metric"] == "train/loss"]["step"].tolist() == [0, 1, 2, 3]

    again = workspace.mlflow_run("spoter", "-P", "config=tiny.yaml")
    assert again.returncode == 0, again.stderr
    assert "already done" in again.stderr
    assert len(workspace.query().runs()) == 1
    pointers = [run for run in workspace.client().search_runs(["1"]) if "labtrail.same_as" in run.data.tags]
    assert {run.data.tags["labtrail.same_as"] for run in pointers} == set(first["run_id"])

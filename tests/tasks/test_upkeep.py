"""The commands that look after a store, as people call them."""

import shutil
import signal

import pytest
from mlflow import MlflowClient

from labtrail.store import contract
from tests.workspace import Workspace, wait_for_line

TOY = "seed: 0\nepochs: 2\n"


@pytest.fixture
def used(workspace: Workspace) -> Workspace:
    workspace.write("toy.yaml", TOY)
    assert workspace.run("labtrail", "init").returncode == 0
    assert toy(workspace).returncode == 0
    return workspace


def toy(workspace: Workspace, *options: str):
    return workspace.run("python", "-m", "tests.toy", "--config", "toy.yaml", *options)


def test_a_dead_run_is_seen_closed_and_continued(used: Workspace) -> None:
    healthy = used.run("labtrail", "doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert "GiB free" in healthy.stdout
    assert "RUNNING" not in healthy.stdout
    words = ("python", "-m", "tests.toy", "--config", "toy.yaml", "--seed", "1", "--epochs", "40", "--pause", "0.5")
    with used.started(*words) as process:
        wait_for_line(process, "step 1")
        assert "0 runs closed" in used.run("labtrail", "reap").stdout
        process.send_signal(signal.SIGKILL)
        process.wait()
    seen = used.run("labtrail", "doctor")
    assert "is RUNNING, but its process is gone; labtrail reap closes it" in seen.stdout
    reaped = used.run("labtrail", "reap")
    assert "KILLED: its process is gone\n1 runs closed" in reaped.stdout
    run = used.query("toy", ("KILLED",)).runs().iloc[0]
    assert run[contract.STATUS_REASON] == "KILLED: its process is gone"
    assert "0 runs closed" in used.run("labtrail", "reap").stdout


def test_a_moved_checkout_is_mended(used: Workspace) -> None:
    old, new = used.folder / "mlruns", used.folder / "elsewhere/runs"
    new.parent.mkdir()
    shutil.move(old, new)
    ill = used.run("labtrail", "doctor")
    assert ill.returncode == 1
    assert "1 finished runs without their artifacts" in ill.stdout
    moved = used.run("labtrail", "relocate", "mlruns", "elsewhere/runs")
    assert moved.returncode == 0, moved.stderr
    assert "runs.artifact_uri: 1 addresses changed" in moved.stdout
    assert used.run("labtrail", "doctor").returncode == 0
    run = used.client().get_run(used.query("toy").runs()["run_id"].item())
    assert str(run.info.artifact_uri).startswith(str(new))
    assert toy(used, "--seed", "5").returncode == 0
    assert not old.exists()


def test_what_cannot_be_relocated_is_said(used: Workspace) -> None:
    missing = used.run("labtrail", "relocate", "mlruns", "nowhere")
    assert missing.returncode == 2
    assert "nowhere: no such folder" in missing.stderr
    other = used.run("labtrail", "relocate", "foreign", "mlruns")
    assert other.returncode == 1
    assert "no address of the store begins with" in other.stderr


def test_a_jobs_own_store_is_brought_home(used: Workspace) -> None:
    used.variables["MLFLOW_TRACKING_URI"] = "sqlite:///node.db"
    assert toy(used, "--seed", "9").returncode == 0
    del used.variables["MLFLOW_TRACKING_URI"]
    first = used.run("labtrail", "sync", "node.db")
    assert first.returncode == 0, first.stderr
    assert "1 runs copied, 0 were there already, 0 have not ended" in first.stdout
    assert "0 runs copied, 1 were there already" in used.run("labtrail", "sync", "node.db").stdout
    runs = used.query("toy").runs()
    assert set(runs["cfg.seed"]) == {"0", "9"}
    assert "already done" in toy(used, "--seed", "9").stderr
    for wrong, says in (("sqlite:///mlflow.db", "the same store"), ("sqlite:///no.db", "there is no file")):
        done = used.run("labtrail", "sync", wrong)
        assert done.returncode != 0
        assert says in done.stderr
    assert not (used.folder / "no.db").exists()
    (used.folder / "text.db").write_text("no database")
    broken = used.run("labtrail", "sync", "text.db")
    assert broken.returncode == 2
    assert "the store cannot be opened" in broken.stderr
    assert "Traceback" not in broken.stderr
    wrong = used.run("labtrail", "sync", "no.db")
    assert wrong.returncode == 2
    assert "no.db: neither a file nor an address" in wrong.stderr


def test_artifacts_of_new_experiments_go_where_they_are_told(workspace: Workspace) -> None:
    workspace.write("toy.yaml", TOY)
    assert workspace.run("labtrail", "init", "--artifacts", "scratch").returncode == 0
    spoter = MlflowClient(f"sqlite:///{workspace.folder / 'mlflow.db'}").get_experiment_by_name("spoter")
    assert spoter is not None
    assert spoter.artifact_location == str(workspace.folder / "scratch/spoter")
    assert workspace.run("labtrail", "doctor").returncode == 0


def test_a_store_that_cannot_be_opened(workspace: Workspace) -> None:
    workspace.variables["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    workspace.variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    done = workspace.run("labtrail", "doctor")
    assert done.returncode == 1
    assert "problem  store http://127.0.0.1:9 cannot be opened" in done.stdout
    assert "Traceback" not in done.stderr

"""However a task ends, its run says so, and names the rank that is to blame."""

import signal
import time

import psutil
import pytest

from tests.workspace import Workspace, wait_for_line, wait_until

ALL = ("FINISHED", "FAILED", "KILLED", "RUNNING")


@pytest.fixture
def toy(workspace: Workspace) -> Workspace:
    workspace.write("toy.yaml", "seed: 0\n")
    return workspace


def _ending(workspace: Workspace) -> tuple[str, str | None]:
    run = workspace.query("toy", ALL).runs()
    assert len(run) == 1
    reason = run["labtrail.status_reason"].item() if "labtrail.status_reason" in run else None
    return run["status"].item(), reason


def test_exception_fails_the_run_with_its_reason(toy: Workspace) -> None:
    done = toy.run("python", "-m", "tests.toy", "--fault", "raise")
    assert done.returncode == 1
    assert _ending(toy) == ("FAILED", "FAILED: ValueError: the toy broke")


def test_non_finite_metric_fails_the_run_and_is_named(toy: Workspace) -> None:
    done = toy.run("python", "-m", "tests.toy", "--fault", "nan")
    assert done.returncode == 1
    assert "error: metric train/loss: expected a finite number, found nan" in done.stderr
    status, reason = _ending(toy)
    assert status == "FAILED"
    assert "train/loss" in (reason or "")
    steps = toy.query("toy", ALL).history(["train/loss"])["step"].tolist()
    assert steps == [0, 1]


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_signal_kills_the_run_with_its_name(name: str, toy: Workspace) -> None:
    with toy.started("python", "-m", "tests.toy", "--pause", "0.3") as process:
        wait_for_line(process, "step 1 ")
        process.send_signal(signal.Signals[name])
        assert process.wait(timeout=30) == 128 + signal.Signals[name]
    assert _ending(toy) == ("KILLED", f"KILLED: {name}")
    done = toy.run("python", "-m", "tests.toy", "--pause", "0.3")
    assert done.returncode == 0, done.stderr
    assert _ending(toy) == ("FINISHED", None)


@pytest.mark.parametrize(
    ("fault", "rank", "reason"),
    [
        ("raise", 1, "FAILED: rank 1: ValueError: the toy broke"),
        pytest.param("raise", 0, "FAILED: rank 0: ValueError: the toy broke", marks=pytest.mark.slow),
        pytest.param("vanish", 1, "FAILED: rank 1 vanished", marks=pytest.mark.slow),
        pytest.param("vanish", 0, "FAILED: rank 0 vanished", marks=pytest.mark.slow),
        pytest.param("hang", 1, "FAILED: rank 1 gave no sign", marks=pytest.mark.slow),
        pytest.param("hang", 0, "FAILED: rank 0 gave no sign", marks=pytest.mark.slow),
    ],
)
def test_rank_that_fails_is_named(fault: str, rank: int, reason: str, toy: Workspace) -> None:
    options = ["--fault", fault, "--rank", str(rank), "--processes", "2", "--timeout", "12", "--once", "fault-happened"]
    done = toy.run("python", "-m", "tests.toy", *options)
    assert done.returncode != 0
    status, said = _ending(toy)
    assert status == "FAILED"
    assert (said or "").startswith(reason), f"{said}\n{done.stderr}"
    if (fault, rank) == ("vanish", 1):
        done = toy.run("python", "-m", "tests.toy", *options)
        assert done.returncode == 0, done.stderr
        assert _ending(toy) == ("FINISHED", None)
        assert toy.query("toy").history(["train/loss"])["step"].tolist() == [0, 1, 2, 3]


def test_nothing_outlives_a_killed_launcher(toy: Workspace) -> None:
    with toy.started("python", "-m", "tests.toy", "--processes", "2", "--pause", "1", "--epochs", "500") as process:
        wait_for_line(process, "step 0 ")
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) >= 2
        process.kill()
        process.wait(timeout=30)
        wait_until(lambda: not any(_alive(worker) for worker in workers), timeout=30)
    assert _ending(toy) == ("KILLED", "KILLED: SIGTERM")


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_second_start_waits_for_the_first(toy: Workspace) -> None:
    with toy.started("python", "-m", "tests.toy", "--pause", "1", "--epochs", "12") as first:
        wait_for_line(first, "step 0 ")
        began = time.monotonic()
        second = toy.run("python", "-m", "tests.toy", "--pause", "1", "--epochs", "12")
        assert first.wait(timeout=60) == 0
    assert second.returncode == 0, second.stderr
    assert "waiting for it" in second.stderr
    assert "already done" in second.stderr
    assert time.monotonic() - began > 2
    assert _ending(toy) == ("FINISHED", None)


def test_fewer_processes_than_asked_is_an_error(toy: Workspace) -> None:
    toy.without_store()
    done = toy.run("accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "tests.toy")
    assert done.returncode != 0
    assert "error: 2 processes were asked for, 1 started" in done.stderr
    assert not (toy.folder / "mlflow.db").exists()


@pytest.mark.slow
def test_other_number_of_processes_is_other_work(toy: Workspace) -> None:
    assert toy.run("python", "-m", "tests.toy").returncode == 0
    done = toy.run("torchrun", "--nproc-per-node", "2", "-m", "tests.toy")
    assert done.returncode == 0, done.stderr
    runs = toy.query("toy").runs()
    assert sorted(runs["labtrail.processes"]) == ["1", "2"]
    assert runs["labtrail.key"].nunique() == 2

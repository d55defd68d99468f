"""Campaigns on a real Slurm: whatever dies, every cell is finished exactly once."""

import signal

import pytest

from labtrail import contract
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.rounds import CELLS, Round, assert_whole
from tests.workspace import Workspace, wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def round_(workspace: Workspace, slurm: PrivateSlurm) -> Round:
    return Round(workspace, slurm)


def test_a_round_from_nothing_to_its_end(round_: Round) -> None:
    first = round_.tick()
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("submitted") == 2
    again = round_.tick()
    assert "submitted" not in again.stderr
    status = round_.tick("--status")
    assert "teachers" in status.stdout
    assert f"{CELLS} cells" in status.stdout
    assert len(round_.slurm.queue()) == 2
    round_.run_to_end()
    assert_whole(round_)
    runs = round_.runs()
    assert (runs[contract.SCHEDULER] == "slurm").all()
    assert (runs[contract.PARTITION] == "debug").all()
    assert (runs[contract.RESOURCES] == "time=5 cpus-per-task=1").all()
    assert runs[[contract.NODE, contract.JOB_ID, contract.JOB_NAME, contract.CPUS]].notna().all().all()
    assert round_.tick().returncode == 0


def test_a_killed_and_a_cancelled_job_go_on_from_their_checkpoint(round_: Round) -> None:
    round_ = Round(round_.workspace, round_.slurm, epochs=12)
    round_.tick()
    _wait_for_epochs(round_, 2)
    one, other = (round_.slurm.queue()[index][1] for index in (0, 1))
    for process in round_.slurm.job_processes():
        if process.environ()["SLURM_JOB_ID"] == one:
            process.kill()
    round_.slurm.command("scancel", other)
    round_.run_to_end()
    assert_whole(round_)
    teachers = round_.runs().query("`cfg.method` == 'none'")
    assert teachers[contract.ATTEMPTS].tolist() == ["2", "2"]
    assert teachers[contract.SUBMISSIONS].tolist() == ["2", "2"]


def _wait_for_epochs(round_: Round, count: int) -> None:
    def there() -> bool:
        history = round_.workspace.query("distill", ("RUNNING",)).history(["train/loss"])
        return history.groupby("run_id")["step"].max().ge(count).sum() >= 2

    wait_until(there, 90)


def test_nothing_is_done_while_the_controller_is_silent(round_: Round) -> None:
    round_.slurm.kill("slurmctld", signal.SIGSTOP)
    hung = round_.tick()
    assert hung.returncode == 1
    assert "nothing is known" in hung.stderr or "timed out" in hung.stderr
    assert round_.runs().empty
    round_.slurm.kill("slurmctld", signal.SIGCONT)
    round_.slurm.kill("slurmctld")
    down = round_.tick()
    assert down.returncode == 1
    assert "error: squeue: " in down.stderr
    assert round_.runs().empty
    round_.slurm.start_controller()
    assert round_.tick().stderr.count("submitted") == 2

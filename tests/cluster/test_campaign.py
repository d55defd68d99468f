"""Campaigns on a real Slurm: whatever dies, every cell is finished exactly once."""

import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labtrail.jobs.queue import QueueError
from labtrail.store import contract
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.rounds import STUDENTS, TEACHERS, Round, assert_whole
from tests.unit.sweeps.test_cron import CRONTAB
from tests.workspace import Workspace, wait_until

pytestmark = pytest.mark.cluster

Make = Callable[..., Round]


@pytest.fixture
def make(workspace: Workspace, slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> Make:
    return lambda **options: Round(workspace, slurm, monkeypatch, **options)


def test_a_round_from_nothing_to_its_end(make: Make) -> None:
    found = make(text=TEACHERS + STUDENTS, epochs=8)
    first = found.called()
    assert first.returncode == 0, first.stderr
    assert first.stderr.count("submitted teachers") == 2
    assert "students" not in first.stderr
    assert found.tick() == []
    status = found.called("--status")
    assert re.search(r"group +method +.*\n *teachers .*\n *students +logit ", status.stdout)
    assert "4 cells" in status.stdout
    found.run_to_end()
    assert_whole(found)
    runs = found.runs()
    assert (runs[contract.SCHEDULER] == "slurm").all()
    assert (runs[contract.PARTITION] == "debug").all()
    assert (runs[contract.RESOURCES] == "time=5 cpus-per-task=1").all()
    assert runs[[contract.NODE, contract.JOB_ID, contract.JOB_NAME, contract.CPUS]].notna().all().all()
    assert all(name.endswith(key) for name, key in zip(runs[contract.JOB_NAME], runs[contract.KEY], strict=True))


def test_cron_and_a_hand_at_once(make: Make, tmp_path: Path) -> None:
    found = make(epochs=8)
    folder, variables = found.workspace.folder, found.workspace.variables
    program = found.workspace.write("bin/crontab", CRONTAB)
    program.chmod(0o755)
    variables |= {"PATH": f"{program.parent}:{variables['PATH']}", "CRONTAB_FILE": str(tmp_path / "lines")}
    options = found.command()[3:]
    on = found.workspace.run("labtrail", "campaign", "cron", "on", *options, "--every", "7")
    assert on.returncode == 0, on.stderr
    line = (tmp_path / "lines").read_text().strip()
    assert line.startswith("*/7 * * * * cd ")
    command = line.removeprefix("*/7 * * * * ").replace("\\%", "%")
    with subprocess.Popen(["/bin/sh", "-c", command], env={"HOME": str(tmp_path)}, cwd="/") as by_cron:
        by_hand = found.workspace.run("labtrail", "campaign", *options)
        assert by_hand.returncode == 0, by_hand.stderr
        assert by_cron.wait(60) == 0
    assert len(found.slurm.queue()) == 2
    log = next((folder / ".labtrail/campaigns").glob("*.cron.log")).read_text()
    assert "2 cells" in log or "another tick" in log
    found.run_to_end()
    assert_whole(found)
    assert subprocess.run(["/bin/sh", "-c", command], env={"HOME": str(tmp_path)}, cwd="/").returncode == 0
    (page,) = (folder / "reports").glob("*.html")
    assert f"{len(found.runs())} finished runs of distill" in page.read_text()
    off = found.workspace.run("labtrail", "campaign", "cron", "off", "--config", "round.yaml")
    assert off.stdout == "campaign round.yaml: off\n"
    assert (tmp_path / "lines").read_text() == ""
    wrong = found.workspace.run("labtrail", "campaign", "cron", "on", "--config", "none.yaml", *options[2:])
    assert wrong.returncode == 1
    assert "none.yaml: no such config file" in wrong.stderr


SEARCH = """
name: search
task: distill
config: quick.yaml
space: {train.learning_rate: {low: 0.01, high: 0.1}}
trials: 6
pruner: none
"""


def test_workers_of_a_study_are_jobs(make: Make) -> None:
    found = make(epochs=12)
    found.workspace.write("search.yaml", SEARCH)
    words = ("python", "-m", "projects.study", "--config", "search.yaml", "--workers", "2", *found.command()[5:])
    with found.workspace.started(*words) as process:
        found.wait_for_epochs(1)
        _, job, _ = found.slurm.queue()[0]
        for job_process in found.slurm.job_processes():
            if job_process.environ()["SLURM_JOB_ID"] == job:
                job_process.kill()
        text = process.communicate(timeout=240)[1]
        assert process.returncode == 0, text + found.logs()
    runs = found.runs()
    runs = runs[runs["labtrail.trial"].notna()]
    assert (runs["status"] == "FINISHED").sum() == 6
    assert runs[contract.KEY].is_unique
    assert runs[contract.NODE].notna().all()
    assert not [state for _, _, state in found.slurm.queue() if state in ("PENDING", "RUNNING")]


def test_cancelling_ends_all_jobs(make: Make) -> None:
    found = make(epochs=600)
    found.slurm.command("scontrol", "update", "PartitionName=debug", "MaxCPUsPerNode=1")
    found.tick()
    found.wait_for_epochs(1, runs=1)
    status = found.called("--status")
    assert "running  teachers-seed=0  job " in status.stdout
    assert "http://127.0.0.1:5000/#/experiments/" in status.stdout
    done = found.called("--cancel")
    assert done.stdout.startswith("2 jobs were cancelled")
    wait_until(lambda: found.runs()["status"].tolist() == ["KILLED", "KILLED"], 60)
    wait_until(lambda: not found.slurm.job_processes(), 60)
    # Slurm still lists a job as completing for a moment after its processes are gone.
    wait_until(lambda: set(found.states().values()) == {"ready"}, 60)


def test_a_held_job_is_reported_and_left_alone(make: Make) -> None:
    found = make()
    found.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    found.tick()
    wait_until(lambda: set(found.states().values()) == {"stuck"}, 30)
    status = found.called("--status")
    assert "stuck  teachers-seed=0  job " in status.stdout
    assert "PartitionDown" in status.stdout
    assert found.tick() == []


def test_a_cell_that_fails_by_itself_waits_for_somebody(make: Make) -> None:
    found = make()
    found.workspace.write("quick.yaml", Path("quick.yaml").read_text().replace("0.05", "1.e+30"))
    found.tick()
    wait_until(lambda: set(found.states().values()) == {"failed"}, 90)
    assert found.tick() == []
    told = found.called()
    assert told.returncode == 1
    assert "failed  teachers-seed=0  no job  FAILED: MetricError" in told.stdout
    assert len(found.tick(retry=True)) == 2


def test_a_cell_without_progress_is_given_up(make: Make) -> None:
    found = make()
    found.configure(setup=["exit 3"], attempts=2)
    for _ in range(2):
        assert len(found.tick()) == 2
        wait_until(lambda: set(found.states().values()) <= {"ready", "dead"}, 60)
    assert found.tick() == []
    told = found.called()
    assert told.returncode == 1
    assert "dead  teachers-seed=0  no job  submitted 2 times without getting any further" in told.stdout


def test_a_killed_and_a_cancelled_job_go_on_from_their_checkpoint(make: Make) -> None:
    found = make(epochs=25)
    found.tick()
    found.wait_for_epochs(2)
    one, other = (found.slurm.queue()[index][1] for index in (0, 1))
    for process in found.slurm.job_processes():
        if process.environ()["SLURM_JOB_ID"] == one:
            process.kill()
    found.slurm.command("scancel", other)
    found.run_to_end()
    assert_whole(found)
    assert found.runs()[contract.ATTEMPTS].tolist() == ["2", "2"]
    assert found.runs()[contract.SUBMISSIONS].tolist() == ["2", "2"]


def test_nothing_is_done_while_the_controller_is_hung_or_down(make: Make) -> None:
    found = make()
    found.slurm.kill("slurmctld", signal.SIGSTOP)
    hung = found.called()
    assert hung.returncode == 1
    assert "error: squeue did not answer within 5 s; nothing is known" in hung.stderr
    assert found.runs().empty
    found.slurm.kill("slurmctld", signal.SIGCONT)
    found.slurm.kill("slurmctld")
    with pytest.raises(QueueError, match="squeue"):
        found.tick()
    assert found.runs().empty
    found.slurm.start_controller()
    assert len(found.tick()) == 2


def test_jobs_that_the_controller_forgot_are_submitted_again(make: Make) -> None:
    found = make()
    assert len(found.tick()) == 2
    found.slurm.kill("slurmctld")
    # Without its last seconds: the jobs are gone, and their numbers will be given out again.
    found.slurm.start_controller(fresh=True)
    wait_until(lambda: not found.slurm.job_processes())
    assert len(found.tick()) == 2
    found.run_to_end()
    assert_whole(found)


def test_a_controller_that_was_killed_and_restarted_changes_nothing(make: Make) -> None:
    found = make(epochs=25)
    found.tick()
    found.wait_for_epochs(1)
    time.sleep(4)
    found.slurm.kill("slurmctld")
    found.slurm.start_controller()
    found.run_to_end()
    assert_whole(found)
    assert found.runs()[contract.SUBMISSIONS].tolist() == ["1", "1"]


def test_sbatch_was_accepted_but_its_caller_killed(make: Make) -> None:
    found = make(epochs=8)
    fatal = textwrap.dedent("""\
        #!/bin/bash
        "$(PATH=${PATH#*:} command -v sbatch)" "$@" || exit
        case "$*" in *--test-only*) ;; *) kill -9 $PPID ;; esac
        """)
    found.workspace.write("fatal/sbatch", fatal).chmod(0o755)
    path = found.workspace.variables["PATH"]
    found.workspace.variables["PATH"] = f"{found.workspace.folder / 'fatal'}:{path}"
    assert found.called().returncode == -signal.SIGKILL
    found.workspace.variables["PATH"] = path
    assert len(found.slurm.queue()) == 1
    assert len(found.tick()) == 1
    found.run_to_end()
    assert_whole(found)
    assert found.runs()[contract.SUBMISSIONS].tolist() == ["1", "1"]


# Both ticks wait for each other after they have looked, as two runners do that read the queue at the same time.
RACE = """
import sys, time
from pathlib import Path
import labtrail.store.connection, labtrail.sweeps.tick
from contextlib import nullcontext
own, other = Path(sys.argv[1]), Path(sys.argv[2])
LOCK
look = labtrail.sweeps.tick.refresh_from_queue
def looked(*arguments, **options):
    found = look(*arguments, **options)
    own.touch()
    deadline = time.monotonic() + 20
    while not other.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return found
labtrail.sweeps.tick.refresh_from_queue = looked
sys.argv = ["campaign", *sys.argv[3:]]
import runpy
runpy.run_module("projects.campaign", run_name="__main__")
"""


def race(found: Round, lock: str) -> None:
    found.workspace.write("race.py", RACE.replace("LOCK", lock))
    words = found.workspace.command(*found.command())
    pairs = (("one", "two"), ("two", "one"))
    racing = [
        subprocess.Popen(
            [words[0], "race.py", *pair, *words[3:]],
            cwd=found.workspace.folder,
            env=found.workspace.environment,
            stdout=subprocess.DEVNULL,
        )
        for pair in pairs
    ]
    for process in racing:
        process.wait(timeout=120)


def test_two_ticks_at_once_submit_each_cell_once(make: Make) -> None:
    found = make(epochs=8)
    race(found, "")
    assert sorted(name for name, _, _ in found.slurm.queue()) == sorted(found.runs()[contract.JOB_NAME])
    assert len(found.slurm.queue()) == 2
    found.run_to_end()
    assert_whole(found)


def test_without_the_lock_there_are_duplicates(make: Make) -> None:
    """What the lock is for: the same race without it."""
    found = make(epochs=8)
    race(found, "labtrail.store.locks.held = lambda name, patience_s: nullcontext(name)")
    assert len(found.slurm.queue()) == 4
    assert len(found.runs()) == 4


def test_a_node_is_lost_and_comes_back(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, slurm: PrivateSlurm
) -> None:
    slurm.stop()
    quick = PrivateSlurm(tmp_path_factory.mktemp("failing"), SlurmdTimeout="5")
    quick.start()
    try:
        found = Round(workspace, quick, monkeypatch, epochs=300)
        found.tick()
        found.wait_for_epochs(2)
        alive = [job_process for job_process in quick.job_processes() if "labtrail.console" in job_process.cmdline()]
        assert len(alive) == 2
        quick.kill("slurmd")
        wait_until(lambda: all(state == "NODE_FAIL" for _, _, state in quick.queue()), 90)
        # Nobody has told them.
        assert all(job_process.is_running() for job_process in alive)
        assert len(found.tick()) == 2
        quick.start_node()
        found.run_to_end()
        assert_whole(found)
        assert found.runs()[contract.SUBMISSIONS].tolist() == ["2", "2"]
    finally:
        quick.stop()


@pytest.mark.slow
def test_a_job_at_its_time_limit_goes_on(make: Make) -> None:
    found = make(epochs=300)
    template = found.workspace.folder / "slurm/job.slurm"
    template.write_text(template.read_text().replace("USR1@120", "USR1@30"))
    found.configure(resources={"time": "1", "cpus-per-task": 1})
    found.run_to_end(600)
    assert_whole(found)
    assert "SIGUSR1" in found.logs()
    assert int(found.runs()[contract.ATTEMPTS].astype(int).min()) >= 2


def edit(found: Round) -> None:
    path = found.workspace.folder / "projects/distill/learner.py"
    text = path.read_text()
    assert text.count("    def loss(") == 1
    path.write_text(text.replace("    def loss(", "    EDITED = True\n\n    def loss("))


def test_an_edit_splits_no_round_and_a_tick_goes_on_with_its_code(make: Make) -> None:
    found = make(text=TEACHERS + STUDENTS, epochs=4)
    assert found.called().returncode == 0
    edit(found)
    looked = found.called()
    assert looked.returncode == 0, looked.stderr
    assert "campaign round goes on with the code that it began with; since then: changed projects.distill.learner" in (
        looked.stderr
    )

    def done() -> bool:
        tick = found.called()
        assert tick.returncode == 0, f"{tick.stderr}\n{found.logs()}"
        return "4 cells: 4 done" in tick.stdout

    wait_until(done, 240)
    assert_whole(found)
    assert found.runs()[contract.CODE].nunique() == 1


# Slurm lets a job that was put back wait for two minutes.
@pytest.mark.slow
def test_a_job_that_is_started_again_goes_on_with_its_code(make: Make) -> None:
    found = make(epochs=400)
    setup = f"export PYTHONPATH=src:. OMP_NUM_THREADS=1 SLURM_CONF={found.slurm.variables['SLURM_CONF']}"
    command = f"{sys.executable} -m labtrail.console run distill --config quick.yaml --train.epochs 40"
    script = found.workspace.write("job.sh", f"#!/bin/bash\n{setup}\nexec {command}\n")
    submitted = found.slurm.command("sbatch", "--parsable", "--requeue", "--output", "job.log", str(script))
    found.wait_for_epochs(2, runs=1)
    edit(found)
    found.slurm.command("scontrol", "requeue", submitted.stdout.strip())
    wait_until(lambda: "FINISHED" in set(found.runs()["status"]), 240)
    (run,) = found.runs().to_dict("records")
    assert run[contract.ATTEMPTS] == "2"
    assert contract.CODES not in run
    assert "goes on with the code that began it" in (found.workspace.folder / "job.log").read_text()

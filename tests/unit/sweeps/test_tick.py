"""Ticks through the interface of a queue: PBS, by commands that answer as recorded and remember what was submitted."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from labtrail.config import load_config
from labtrail.jobs.pbs import Pbs
from labtrail.jobs.queue import QueueError, SubmitError
from labtrail.jobs.queues import Batch
from labtrail.jobs.script import BatchConfig
from labtrail.query.query import Query
from labtrail.running.claim import Identity
from labtrail.running.registry import task_named
from labtrail.running.run_status import set_tags
from labtrail.running.writer import RunWriter, Status
from labtrail.store import connection, contract
from labtrail.sweeps.campaign import Campaign, run_command
from labtrail.sweeps.cells import CampaignConfig
from labtrail.sweeps.tick import cancel, job_name, overview, refresh_from_queue, tick
from tests.workspace import REPOSITORY

ROUND = """
name: round
task: distill
groups:
  - {name: teachers, config: CONFIG, grid: {seed: [0, 1, 2]}}
"""
# A queue as files: one for each job, named by its number, with the job's name in it.
QSUB = """#!/bin/bash
if [ "$(ls "$JOBS" | wc -l)" -ge "${LIMIT:-99}" ]; then
  echo "qsub: would exceed queue generic's per-user limit" >&2
  exit 1
fi
number=$(($(cat "$JOBS/../last" 2>/dev/null || echo 16) + 1)); echo $number > "$JOBS/../last"
echo "$2" > "$JOBS/$number.server"; cp "${@: -1}" "$JOBS/../script.$number"; echo "$number.server"
"""
QSELECT = """#!/bin/bash
[ -n "$SILENT" ] && { echo "qselect: cannot connect to server vm (errno=15010)" >&2; exit 1; }
case "$3" in
  -N) grep -lxF -- "$4" "$JOBS"/* 2>/dev/null | xargs -r -n 1 basename ;;
  -s) ;;
  *) ls "$JOBS" ;;
esac
exit 0
"""
QDEL = """#!/bin/bash
for job in "$@"; do rm -f "$JOBS/$job"; done
"""


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").create_experiment("distill")
    return path


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """The queue's folder; this process works in a folder of its own with a fresh store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for name, text in (("qsub", QSUB), ("qselect", QSELECT), ("qdel", QDEL)):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "jobs").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))
    Path("round.yaml").write_text(ROUND.replace("CONFIG", str(REPOSITORY / "configs/distill/digits.yaml")))
    return tmp_path / "jobs"


def campaign() -> Campaign:
    known = task_named("distill")
    return Campaign(load_config(CampaignConfig, Path("round.yaml")), known, run_command(known))


def batch(**values: object) -> Batch:
    config = {"template": REPOSITORY / "slurm/job.pbs", "resources": {"walltime": "00:10:00"}, "timeout_s": 5, **values}
    return Batch(Pbs(5.0), BatchConfig.model_validate(config))


def ticked(*, retry: bool = False, **values: object) -> list[str]:
    return [cell.name for cell in tick(campaign(), batch(**values), retry=retry)]


def states(**values: object) -> list[str]:
    own = campaign()
    refresh_from_queue(own, batch(**values))
    return [cell.state for cell in own.cells]


def runs():
    return Query("distill").ended(*contract.ANY_END).runs()


def finish(run_id: str, status: Status = "FINISHED") -> None:
    """What a job does at its end."""
    tags = connection.current_store().get_run(run_id).data.tags
    run = RunWriter(run_id)
    config = load_config(task_named("distill").config, REPOSITORY / "configs/distill/digits.yaml")
    run.start(Identity("distill", "name", tags[contract.KEY], config, [], {}))
    run.end(status, "" if status == "FINISHED" else "because")


def test_what_is_alive_is_left_alone_and_what_is_gone_goes_on(jobs: Path) -> None:
    assert len(ticked()) == 3
    assert ticked() == []
    assert states() == ["queued"] * 3
    first = runs()
    assert first["status"].tolist() == ["SCHEDULED"] * 3
    assert {path.read_text().strip() for path in jobs.iterdir()} == set(first[contract.JOB_NAME])
    script = (jobs.parent / "script.17").read_text()
    assert "#PBS -l walltime=00:10:00" in script
    assert "{{" not in script
    (jobs / "17.server").unlink()
    assert len(ticked()) == 1
    again = runs()
    assert sorted(again["run_id"]) == sorted(first["run_id"])
    assert sorted(again[contract.SUBMISSIONS]) == ["1", "1", "2"]


def test_a_finished_job_is_not_submitted_again(jobs: Path) -> None:
    ticked()
    for run_id in runs()["run_id"]:
        finish(run_id)
    for job in jobs.iterdir():
        job.unlink()
    assert states() == ["done"] * 3
    assert ticked() == []


def test_a_silent_server_changes_nothing(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILENT", "1")
    with pytest.raises(QueueError, match="cannot connect to server"):
        ticked()
    assert runs().empty


def test_a_limit_of_jobs_is_no_failure(jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMIT", "1")
    assert len(ticked(attempts=1)) == 1
    # The others have not used up their only attempt.
    for _ in range(2):
        with pytest.raises(SubmitError, match="per-user limit"):
            ticked(attempts=1)
    assert sorted(states(attempts=1)) == ["queued", "ready", "ready"]
    monkeypatch.setenv("LIMIT", "9")
    assert len(ticked(attempts=1)) == 2


def test_failed_cells_wait_and_those_without_progress_are_given_up(jobs: Path) -> None:
    ticked()
    ids = runs()["run_id"].tolist()
    finish(ids[0], "FAILED")
    for job in jobs.iterdir():
        job.unlink()
    assert sorted(states(attempts=1)) == ["dead", "dead", "failed"]
    assert ticked(attempts=1) == []
    assert len(ticked(attempts=1, retry=True)) == 3


def test_progress_earns_further_attempts(jobs: Path) -> None:
    ticked()
    for epoch, run_id in enumerate(runs()["run_id"]):
        connection.current_store().log_metric(run_id, "system/epoch_seconds", 1.0, step=epoch)
    for number in range(3):
        for job in jobs.iterdir():
            job.unlink()
        assert len(ticked(attempts=1)) == (3 if number == 0 else 0)


def test_the_same_work_under_another_jobs_name_is_seen(jobs: Path) -> None:
    ticked()
    run = runs().iloc[0]
    (job,) = (path for path in jobs.iterdir() if path.read_text().strip() == run[contract.JOB_NAME])
    job.write_text("distill-by-hand\n")
    set_tags(run["run_id"], {contract.JOB_NAME: "distill-by-hand"})
    assert states() == ["queued"] * 3
    assert ticked() == []


def test_runs_of_another_folder_are_theirs(jobs: Path) -> None:
    ticked()
    set_tags(runs()["run_id"].iloc[0], {contract.PLACE: "another"})
    for job in jobs.iterdir():
        job.unlink()
    own = campaign()
    refresh_from_queue(own, batch())
    assert sorted(cell.state for cell in own.cells) == ["ready", "ready", "running"]
    assert next(cell.problem for cell in own.cells if cell.state == "running").startswith("from another folder")


def test_cancelling_closes_what_has_not_begun(jobs: Path) -> None:
    ticked()
    assert len(cancel(campaign(), batch())) == 3
    assert not list(jobs.iterdir())
    assert runs()["status"].tolist() == ["KILLED"] * 3
    assert set(runs()[contract.STATUS_REASON]) == {"KILLED: cancelled before its job began"}
    assert len(ticked()) == 3


def test_a_result_that_is_gone_is_work_for_another_run(jobs: Path) -> None:
    ticked()
    for run_id in runs()["run_id"]:
        finish(run_id)
    for job in jobs.iterdir():
        job.unlink()
    known = task_named("distill")
    task = replace(known, missing=lambda _config: True)
    gone = Campaign(load_config(CampaignConfig, Path("round.yaml")), task, run_command(known))
    assert len(tick(gone, batch())) == 3
    assert sorted(runs()["status"]) == ["FINISHED"] * 3 + ["SCHEDULED"] * 3


def test_an_overview_adds_seeds_up(jobs: Path) -> None:
    own = campaign()
    tick(own, batch())
    table = overview(own.cells)
    assert table.to_dict("records") == [{"group": "teachers", "queued": 3}]
    assert all(job_name(own, cell).endswith(f".{cell.key}") for cell in own.cells)

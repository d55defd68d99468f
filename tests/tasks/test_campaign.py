"""Campaigns and studies as people start them: twice at once, killed half-way, and again."""

import signal

import pandas as pd
import psutil
import pytest

from labtrail.store import contract
from tests.workspace import Command, Workspace, assert_same_weights, wait_for_line

ANY = ("FINISHED", "FAILED", "KILLED", "RUNNING")
QUICK = """
seed: 0
method: none
teacher_model: resnet8
data: {name: digits, validation: 0.4}
model: {name: resnet8, width: 4}
loss: {paraphraser_epochs: 1}
train: {epochs: 3, batch_size: 128, learning_rate: 0.05}
"""
ROUND = """
name: round
task: distill
groups:
  - {name: teachers, config: quick.yaml, grid: {seed: [0, 1]}}
  - name: students
    config: quick.yaml
    reads: {teacher: teachers}
    grid: {method: [logit, fitnets], seed: [0, 1]}
"""
CELLS = 6
# A rate at which the loss overflows.
FAULTY = """
name: faulty
task: distill
groups:
  - {name: teachers, config: quick.yaml}
  - {name: wild, config: quick.yaml, reads: {teacher: teachers}, values: {method: sp, train.learning_rate: 1.e+30}}
  - {name: tame, config: quick.yaml, reads: {teacher: teachers}, values: {method: logit}}
"""
SEARCH = """
name: search
task: distill
config: quick.yaml
values: {method: logit, train.epochs: 1}
space:
  alpha: {low: 0.05, high: 0.95}
  loss.temperature: {low: 1.0, high: 8.0, log: true}
trials: 20
"""


def campaign(workspace: Workspace, *options: str) -> list[str]:
    workspace.write("quick.yaml", QUICK)
    workspace.write("round.yaml", ROUND)
    return ["python", "-m", "projects.campaign", "--config", "round.yaml", "--workers", "2", *options]


def cells(workspace: Workspace, *statuses: str) -> pd.DataFrame:
    return workspace.query("distill", statuses or ANY).runs()


@pytest.mark.slow
def test_two_campaigns_at_once_one_killed_leave_every_cell_once(workspace: Workspace) -> None:
    command = campaign(workspace)
    with (
        workspace.started(*command, stdout="one.log") as one,
        workspace.started(*command, stdout="two.log") as two,
    ):
        # One of them has the campaign, the other waits for it.
        at_work, waiting = (one, two) if "started" in _first_words(one) else (two, one)
        wait_for_line(at_work, "started students")
        at_work.send_signal(signal.SIGKILL)
        # The waiting one takes over, and continues what was cut.
        text = waiting.communicate(timeout=240)[1]
        assert waiting.returncode == 0, text
    runs = cells(workspace)
    assert len(runs) == CELLS
    assert (runs["status"] == "FINISHED").all()
    assert runs[contract.KEY].is_unique
    assert (runs[contract.CAMPAIGN] == "round").all()
    students = runs[runs["cfg.method"] != "none"]
    teachers = runs[runs["cfg.method"] == "none"].set_index("cfg.seed")
    assert students["cfg.teacher"].tolist() == [teachers.loc[seed, "run_id"] for seed in students["cfg.seed"]]
    own_teacher_ended = [teachers.loc[seed, "ended"] for seed in students["cfg.seed"]]
    assert (students["started"] > own_teacher_ended).all()

    again = workspace.run(*command)
    assert again.returncode == 0
    assert "already done" in again.stderr
    assert len(cells(workspace)) == CELLS
    dry = workspace.run(*campaign(workspace, "--dry-run"))
    assert f"{CELLS} cells: {CELLS} done" in dry.stdout
    table = workspace.artifacts(workspace.query("campaign").runs()["run_id"].item()) / "tables/cells.csv"
    assert pd.read_csv(table)["state"].tolist() == ["done"] * CELLS
    # Another round that rests on the same work has it under its own name, too.
    later = (workspace.folder / "round.yaml").read_text().replace("name: round", "name: later")
    workspace.write("later.yaml", later)
    done = workspace.run(*[word.replace("round.yaml", "later.yaml") for word in command])
    assert done.returncode == 0, done.stderr
    assert len(cells(workspace)) == CELLS
    found = workspace.query("distill")
    assert len(found.campaign("later").runs()) == len(found.campaign("round").runs()) == CELLS


def _first_words(process: Command) -> str:
    assert process.stderr is not None
    return next(line for line in process.stderr if "started" in line or "waiting for it" in line)


def test_a_cell_that_fails_is_named_and_the_others_are_run(workspace: Workspace) -> None:
    command = campaign(workspace)
    workspace.write("round.yaml", FAULTY)
    done = workspace.run(*command)
    assert done.returncode == 1
    assert "1 of 3 cells failed; the first: wild: exit status 1" in done.stderr
    states = dict(zip(cells(workspace)["cfg.method"], cells(workspace)["status"], strict=True))
    assert states == {"none": "FINISHED", "sp": "FAILED", "logit": "FINISHED"}
    assert workspace.query("campaign").runs().empty


@pytest.mark.slow
def test_a_study_survives_the_death_of_a_worker(workspace: Workspace) -> None:
    campaign(workspace)
    workspace.write("search.yaml", SEARCH)
    assert workspace.run("python", "-m", "projects.distill", "--config", "quick.yaml").returncode == 0
    command = ["python", "-m", "projects.study", "--config", "search.yaml", "--workers", "2"]
    with workspace.started(*command) as process:
        wait_for_line(process, "study/best")
        # Workers are forked by the process that has loaded what tasks need.
        (forking,) = psutil.Process(process.pid).children()
        worker = forking.children()[0]
        worker.kill()
        text = process.communicate(timeout=240)[1]
        assert process.returncode == 0, text
    runs = cells(workspace)
    trials = runs[runs["labtrail.trial"].notna()]
    assert set(runs["status"]) <= {"FINISHED", "KILLED"}
    study = workspace.query("study").runs().iloc[0]
    client = workspace.client()
    assert {client.get_run(run_id).data.tags["mlflow.parentRunId"] for run_id in trials["run_id"]} == {study["run_id"]}
    folder = workspace.artifacts(study["run_id"])
    table = pd.read_csv(folder / "tables/trials.csv")
    ended = table[table["state"].isin(["complete", "pruned"])]
    assert len(ended) == 20
    assert (table["state"] != "running").all()
    assert ended["run_id"].is_unique
    complete = table[table["state"] == "complete"]
    assert study["study/best"] == complete["value"].max()
    assert {path.name for path in (folder / "figures").glob("*.png")} >= {"slices.png", "importance.png"}

    best = workspace.run("python", "-m", "projects.distill", "--config", str(folder / "best.yaml"))
    assert best.returncode == 0, best.stderr
    assert "already done" in best.stderr

    more = workspace.run(*command, "--trials", "22")
    assert more.returncode == 0, more.stderr
    assert len(cells(workspace)) - len(runs) == 2


def test_a_bundle_is_runs_of_their_own(workspace: Workspace) -> None:
    campaign(workspace)
    students = "students: [{method: logit, alpha: 0.25}, {method: attention, alpha: 0.5}]\n"
    workspace.write("bundle.yaml", QUICK.replace("method: none\n", "") + students)
    assert workspace.run("python", "-m", "projects.distill", "--config", "quick.yaml").returncode == 0
    logit = ["python", "-m", "projects.distill", "--config", "quick.yaml", "--method", "logit", "--alpha", "0.25"]
    done = workspace.run("python", "-m", "projects.distill", "bundle", "--config", "bundle.yaml")
    assert done.returncode == 0, done.stderr
    runs = cells(workspace)
    assert runs["status"].tolist() == ["FINISHED"] * 3
    assert "already done" in workspace.run(*logit).stderr
    assert workspace.run(*logit, "--again").returncode == 0
    own, again = (cells(workspace).query("`cfg.method` == 'logit'")["run_id"]).tolist()
    assert_same_weights(workspace.artifacts(own), workspace.artifacts(again))
    bundle = workspace.query("distill-bundle").runs()["run_id"].item()
    table = pd.read_csv(workspace.artifacts(bundle) / "tables/students.csv")
    assert set(table["run_id"]) == set(runs["run_id"].iloc[1:])

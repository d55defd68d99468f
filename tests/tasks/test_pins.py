"""A round or study runs from the code that it began with; what follows from an edit is asked once."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from labtrail.store import contract
from tests.tasks.test_code import BETAS, edit
from tests.workspace import TINY, Workspace, assert_same_weights, kill_tree, wait_for_line

ROUND = """
name: round
task: spoter
groups:
  - {name: signs, config: base.yaml, values: {train.milestones: [], train.epochs: 2}, grid: {seed: [0, 1, 2]}}
"""
STUDY = """
name: search
task: spoter
config: base.yaml
values: {train.milestones: [], train.epochs: 2}
space: {train.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}
metric: validation/loss
direction: minimize
pruner: none
trials: 2
"""
RUN = ("labtrail", "campaign", "run", "--config", "round.yaml", "--workers", "1")
SEARCH = ("labtrail", "study", "run", "--config", "study.yaml")
THIRD = "betas=(0.9, 0.5)"


def runs(workspace: Workspace) -> pd.DataFrame:
    return workspace.query(statuses=contract.ANY_END).runs().sort_values("started", ignore_index=True)


@pytest.fixture
def lab(workspace: Workspace) -> Workspace:
    workspace.write("base.yaml", TINY)
    workspace.write("round.yaml", ROUND)
    workspace.write("study.yaml", STUDY)
    return workspace


def question(workspace: Workspace, *command: str) -> str:
    asked = workspace.run(*command)
    assert asked.returncode == 3, asked.stderr
    (line,) = [line for line in asked.stderr.splitlines() if line.startswith("error: ")]
    assert "projects.spoter.train.make_optimizer" in line
    return line


def test_an_edit_at_noon_splits_no_round(lab: Workspace) -> None:
    with lab.started(*RUN) as process:
        wait_for_line(process, "started signs-seed=0")
        # Both of the code that the cells reach and of the config that they start from.
        edit(lab, *BETAS)
        lab.write("base.yaml", TINY.replace("batch_size: 4", "batch_size: 8"))
        process.communicate(timeout=240)
        assert process.returncode == 0
    lab.write("base.yaml", TINY)
    cells = runs(lab)
    assert list(cells["status"]) == ["FINISHED"] * 3
    assert cells[contract.CODE].nunique() == cells["cfg.train.batch_size"].nunique() == 1
    old = cells[contract.CODE].iloc[0]
    assert json.loads((lab.folder / ".labtrail/campaigns/round/pin.json").read_text())["code"]["digest"] == old

    assert "campaign round has begun with other code" in question(lab, *RUN)


@pytest.mark.slow
def test_what_a_person_says_of_a_round(lab: Workspace) -> None:
    assert lab.run(*RUN).returncode == 0
    old = runs(lab)[contract.CODE].iloc[0]
    edit(lab, *BETAS)
    assert lab.run(*RUN, "--pinned").returncode == 0
    assert len(runs(lab)) == 3
    kept = lab.run(*RUN, "--keep")
    assert kept.returncode == 0, kept.stderr
    assert len(runs(lab)) == 3

    # Another code, and the cells beside those that are there.
    edit(lab, BETAS[1], THIRD)
    again = lab.run(*RUN, "--again")
    assert again.returncode == 0, again.stderr
    assert "3 of the 3 cells of campaign round have been done or begun by other code" in again.stderr
    later = runs(lab)
    assert len(later) == 6
    assert set(later[contract.CODE][3:]) != {old}
    # A round of another name that rests on them asks before anything is started, too.
    edit(lab, THIRD, "betas=(0.9, 0.6)")
    lab.write("round.yaml", ROUND.replace("name: round", "name: second"))
    assert "3 of the 3 cells of campaign second" in question(lab, *RUN)
    assert not (lab.folder / ".labtrail/campaigns/second/pin.json").exists()
    edit(lab, "betas=(0.9, 0.6)", THIRD)
    assert lab.run(*RUN).returncode == 0
    assert len(runs(lab)) == 6


@pytest.mark.slow
def test_a_killed_round_goes_on_with_its_own_code(lab: Workspace) -> None:
    with lab.started(*RUN) as process:
        wait_for_line(process, "started signs-seed=1")
        kill_tree(process.pid)
        process.wait(timeout=60)
    edit(lab, *BETAS)
    assert "has begun with other code" in question(lab, *RUN)
    pinned = lab.run(*RUN, "--pinned")
    assert pinned.returncode == 0, pinned.stderr
    ended = runs(lab)
    assert list(ended["status"]) == ["FINISHED"] * 3
    assert ended[contract.CODE].nunique() == 1
    # One that nothing has disturbed has the same weights.
    edit(lab, *reversed(BETAS))
    options = ("--train.milestones", "[]", "--train.epochs", "2", "--seed", "1", "--again")
    assert lab.run("labtrail", "run", "spoter", "--config", "base.yaml", *options).returncode == 0
    (pinned_id,) = ended["run_id"][ended["cfg.seed"] == "1"]
    assert_same_weights(lab.artifacts(pinned_id), lab.artifacts(runs(lab)["run_id"].iloc[-1]))


@pytest.mark.slow
def test_an_edit_splits_no_study(lab: Workspace) -> None:
    with lab.started(*SEARCH) as process:
        wait_for_line(process, "step 1 ")
        edit(lab, *BETAS)
        lab.write("base.yaml", TINY.replace("batch_size: 4", "batch_size: 8"))
        process.communicate(timeout=240)
        assert process.returncode == 0
    lab.write("base.yaml", TINY)
    trials = runs(lab)
    assert len(trials) == 2
    assert trials[contract.CODE].nunique() == trials["cfg.train.batch_size"].nunique() == 1
    assert trials[contract.STUDY].nunique() == 1

    assert "study search has begun with other code" in question(lab, *SEARCH)


@pytest.mark.slow
def test_what_a_person_says_of_a_study(lab: Workspace) -> None:
    assert lab.run(*SEARCH).returncode == 0
    edit(lab, *BETAS)
    lab.write("study.yaml", STUDY.replace("trials: 2", "trials: 3"))
    pinned = lab.run(*SEARCH, "--pinned")
    assert pinned.returncode == 0, pinned.stderr
    assert len(runs(lab)) == 3
    assert runs(lab)[contract.CODE].nunique() == 1
    lab.write("study.yaml", STUDY.replace("trials: 2", "trials: 4"))
    kept = lab.run(*SEARCH, "--keep")
    assert kept.returncode == 0, kept.stderr
    assert runs(lab)[contract.CODE].nunique() == 2


MATCHED = [f"cfg.{name}" for name in ("method", "alpha", "seed", "model.name")]


def cells_of(workspace: Workspace) -> pd.Series:
    """Run ids of the digits campaign by what makes a cell; the ids of teachers are of each store."""
    ended = workspace.query("distill", contract.ANY_END).runs()
    assert (ended["status"] == "FINISHED").all()
    return ended.set_index(MATCHED)["run_id"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_digits_campaign_edited_in_mid_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "configs/distill/digits_alpha.yaml"
    folders = []
    for label in ("plain", "edited"):
        (tmp_path / label).mkdir()
        lab = Workspace(tmp_path / label)
        text = (lab.folder / "configs/distill/digits.yaml").read_text()
        lab.write("configs/distill/digits.yaml", re.sub(r"epochs: \d+", "epochs: 1", text, count=1))
        folders.append(lab)
    plain, edited = folders
    command = ("labtrail", "campaign", "run", "--config", name, "--workers", "2")
    assert plain.run(*command, timeout=1800).returncode == 0
    with edited.started(*command) as process:
        wait_for_line(process, "started students")
        learner = edited.folder / "projects/distill/learner.py"
        text = learner.read_text()
        assert "self.alpha * extra" in text
        learner.write_text(text.replace("self.alpha * extra", "0.1 * self.alpha * extra"))
        process.communicate(timeout=1800)
        assert process.returncode == 0
    first, second = cells_of(plain), cells_of(edited)
    assert len(first) == len(second) == 46
    assert edited.query("distill").runs()[contract.CODE].nunique() == 1
    for cell, run_id in first.items():
        assert_same_weights(plain.artifacts(run_id), edited.artifacts(second[cell]))
    for lab, runs_of_lab in ((plain, first), (edited, second)):
        monkeypatch.chdir(lab.folder)
        frame = lab.query("distill").runs().set_index("run_id").loc[list(runs_of_lab.sort_index())]
        results = frame[[column for column in frame if column.startswith(("test/", "validation/", "train/"))]]
        (tmp_path / f"{lab.folder.name}.csv").write_text(results.to_csv(index=False))
    assert (tmp_path / "plain.csv").read_text() == (tmp_path / "edited.csv").read_text()

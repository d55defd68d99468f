"""A finished run is repeated to the bit by the code that it kept, whatever has become of the files that it was."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from labtrail.store import contract
from tests.tasks.test_code import BETAS, COMMAND, SHORT, done, edit, killed, runs
from tests.workspace import REPOSITORY, Workspace

__all__ = ["done"]

WHO = ("-c", "user.name=A", "-c", "user.email=a@localhost")


def git(workspace: Workspace, *words: str) -> str:
    command = ["git", "-C", str(workspace.folder), *WHO, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def in_git(workspace: Workspace) -> None:
    """Makes the workspace a repository of its own code; labtrail is a copy in it, too."""
    (workspace.folder / "src").unlink()
    shutil.copytree(Path(__file__).parents[2] / "src", workspace.folder / "src")
    (workspace.folder / ".gitignore").write_text("mlruns/\nmlflow.db*\n.labtrail/\n__pycache__/\n*.log\ndata/\n")
    git(workspace, "init", "--quiet", "--initial-branch=main")
    git(workspace, "add", ".")
    git(workspace, "commit", "--quiet", "-m", "first")


def run_id_of(workspace: Workspace) -> str:
    return runs(workspace)["run_id"].iloc[-1]


def reproduce(workspace: Workspace, run_id: str, *options: str, status: int = 0) -> str:
    ended = workspace.run("labtrail", "reproduce", run_id, *options)
    assert ended.returncode == status, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def verdict(workspace: Workspace, run_id: str) -> dict[str, str]:
    return json.loads(workspace.client().get_run(run_id).data.tags[contract.REPRODUCED])


@pytest.mark.slow
def test_to_the_bit_though_the_code_has_changed_since(done: Workspace) -> None:
    run_id = run_id_of(done)
    edit(done, *BETAS)
    text = reproduce(done, run_id)
    assert "the run's own copy" in text
    assert "verdict:  to the bit" in text
    assert "weights:  all" in text
    noted = verdict(done, run_id)
    assert noted["verdict"] == "to the bit"
    repetition = done.client().get_run(noted["run"])
    assert repetition.data.tags[contract.REPRODUCES] == run_id
    assert contract.KEY not in repetition.data.tags
    # Wide queries and claims pass it over.
    assert list(runs(done)["run_id"]) == [run_id]
    assert done.run(*SHORT).returncode == 3


@pytest.fixture
def thrown_away(workspace: Workspace) -> Workspace:
    """A lab in git, with a run of code that was changed and new, and is neither any more."""
    in_git(workspace)
    new = workspace.folder / "projects/spoter/extra.py"
    new.write_text("BETAS = (0.9, 0.97)\n")
    (workspace.folder / "projects/spoter/.env").write_text("TOKEN=1\n")
    edit(workspace, "betas=(0.9, 0.98)", "betas=BETAS")
    edit(workspace, "import labtrail as lt\n", "import labtrail as lt\nfrom projects.spoter.extra import BETAS\n")
    first = workspace.run(*SHORT)
    assert first.returncode == 0, first.stderr
    tags = workspace.client().get_run(run_id := run_id_of(workspace)).data.tags
    assert tags[contract.GIT_DIRTY] == "true"
    assert ".env" in tags[contract.SOURCE_KEPT]
    source = workspace.artifacts(run_id) / contract.SOURCE
    facts = json.loads((source / "source.json").read_text())
    assert facts["tree"]["untracked"] == ["projects/spoter/.env", "projects/spoter/extra.py"]
    assert "BETAS = (0.9, 0.97)" in (source / "changes.patch").read_text()
    assert "TOKEN" not in (source / "changes.patch").read_text()

    git(workspace, "checkout", "--quiet", ".")
    git(workspace, "clean", "--quiet", "--force")
    assert not new.exists()
    return workspace


def test_dirty_and_untracked_code_comes_back(thrown_away: Workspace) -> None:
    assert "verdict:  to the bit" in reproduce(thrown_away, run_id_of(thrown_away))


@pytest.mark.slow
def test_code_comes_back_from_git_where_the_copy_is_gone(thrown_away: Workspace) -> None:
    workspace, run_id = thrown_away, run_id_of(thrown_away)
    source = workspace.artifacts(run_id) / contract.SOURCE
    # As git kept it, though no branch has it.
    shutil.rmtree(workspace.folder / ".labtrail")
    (source / "code.tar.gz").unlink()
    git(workspace, "gc", "--quiet", "--prune=now")
    text = reproduce(workspace, run_id)
    assert "as git kept it" in text
    assert "verdict:  to the bit" in text

    # And from the commit below and the patch, as in a clone, where these refs are not.
    shutil.rmtree(workspace.folder / ".labtrail")
    for line in git(workspace, "for-each-ref", "--format=%(refname)", "refs/labtrail").splitlines():
        git(workspace, "update-ref", "-d", line)
    git(workspace, "gc", "--quiet", "--prune=now")
    assert "verdict:  to the bit" in reproduce(workspace, run_id)

    # Nowhere.
    shutil.rmtree(workspace.folder / ".labtrail")
    (source / "changes.patch").unlink()
    ended = workspace.run("labtrail", "reproduce", run_id)
    assert ended.returncode == 2
    assert "cannot be repeated" in ended.stderr


@pytest.mark.slow
def test_a_run_that_was_killed_and_continued(workspace: Workspace) -> None:
    run_id = killed(workspace)
    assert workspace.run(*COMMAND).returncode == 0
    assert "verdict:  to the bit" in reproduce(workspace, run_id)


@pytest.mark.slow
def test_two_processes(workspace: Workspace) -> None:
    assert workspace.run(*SHORT, "--processes", "2").returncode == 0
    assert "verdict:  to the bit" in reproduce(workspace, run_id_of(workspace))


TABLE = """
from pathlib import Path

import torch

import labtrail as lt
from labtrail.record import DataSource


class TableConfig(lt.Config):
    path: str = "table.csv"
    epochs: int = 3


def sources(config):
    return [DataSource("table", "train", config.path, lt.sha256_of(Path(config.path)))]


@lt.task(sources=sources)
def table(config: TableConfig, run: lt.Run):
    values = [float(word) for word in Path(config.path).read_text().split(",")]
    torch.manual_seed(config.seed)
    for epoch in range(config.epochs):
        yield lt.Record(epoch, {"train/loss": float(torch.rand(1)) + sum(values)})
"""


@pytest.fixture
def tabled(workspace: Workspace) -> Workspace:
    """A lab with one task on one table, done once."""
    workspace.write("tabled.py", TABLE)
    workspace.write("pyproject.toml", '[tool.labtrail]\ntasks = ["tabled"]\n')
    workspace.write("table.csv", "1.5,2.5,3.5")
    ended = workspace.run("labtrail", "run", "table")
    assert ended.returncode == 0, ended.stderr
    return workspace


def of_table(workspace: Workspace) -> pd.Series:
    return workspace.query("table").runs().iloc[-1]


@pytest.mark.slow
def test_other_data_are_refused(tabled: Workspace) -> None:
    run_id = of_table(tabled)["run_id"]
    assert "verdict:  to the bit" in reproduce(tabled, run_id)
    tabled.write("table.csv", "1.5,2.5,3.6")
    ended = tabled.run("labtrail", "reproduce", run_id)
    assert ended.returncode == 2
    assert "data: other content of train (table)" in ended.stderr
    assert len(tabled.client().search_runs([tabled.client().get_run(run_id).info.experiment_id])) == 2


def test_a_field_that_was_added_is_a_question_or_neutral(tabled: Workspace) -> None:
    run_id, text = of_table(tabled)["run_id"], (tabled.folder / "tabled.py").read_text()
    field = "    epochs: int = 3\n"
    neutral = text.replace(field, f"{field}    scale: Annotated[float, lt.Neutral] = 1.0\n")
    tabled.write("tabled.py", f"from typing import Annotated\n{neutral}")
    assert f"run {run_id} has finished this work" in tabled.run("labtrail", "run", "table").stderr

    tabled.write("tabled.py", text.replace(field, f"{field}    scale: float = 1.0\n"))
    asked = tabled.run("labtrail", "run", "table")
    assert asked.returncode == 3, asked.stderr
    assert f"run {run_id} has finished this config and data before there was scale" in asked.stderr
    # Another value is other work.
    assert tabled.run("labtrail", "run", "table", "--scale", "2").returncode == 0
    assert tabled.run("labtrail", "run", "table", "--keep").returncode == 0
    later = tabled.run("labtrail", "run", "table")
    assert later.returncode == 0
    assert f"run {run_id} has finished this work" in later.stderr
    assert len(tabled.query("table").runs()) == 2


def test_a_run_of_several_codes_is_refused(workspace: Workspace) -> None:
    run_id = killed(workspace)
    edit(workspace, *BETAS)
    assert workspace.run(*COMMAND, "--keep").returncode == 0
    ended = workspace.run("labtrail", "reproduce", run_id)
    assert ended.returncode == 2
    assert "several codes" in ended.stderr


@pytest.mark.slow
def test_numbers_that_chance_decides_differ_and_lie_within_the_noise_or_a_tolerance(tabled: Workspace) -> None:
    text = (tabled.folder / "tabled.py").read_text()
    tabled.write("tabled.py", text.replace("torch.manual_seed(config.seed)", "torch.seed()"))
    assert tabled.run("labtrail", "run", "table", "--again").returncode == 0
    run_id = of_table(tabled)["run_id"]
    differs = reproduce(tabled, run_id, status=1)
    assert "first difference at step 0, train/loss" in differs
    assert "verdict:  differs" in differs
    assert verdict(tabled, run_id)["verdict"] == "differs"
    # Sums near 8 with a part of at most 1.
    assert "verdict:  close" in reproduce(tabled, run_id, "--tolerance", "0.2")
    head = reproduce(tabled, run_id, "--epochs", "1", status=1)
    assert "0 of 1 equal" in head


@pytest.mark.slow
def test_the_head_of_a_curve(done: Workspace) -> None:
    longer = (*COMMAND, "--train.epochs", "3")
    assert done.run(*longer).returncode == 0
    text = reproduce(done, run_id_of(done), "--epochs", "1")
    assert "(the first 1 records)" in text
    assert "to the bit" in text


def test_a_refactoring_is_settled_and_another_optimizer_is_not(done: Workspace) -> None:
    run_id = run_id_of(done)
    before = "    parameters = [parameter for parameter in model.parameters() if"
    edit(done, before, f"    every = list(model.parameters())\n{before.replace('model.parameters()', 'every')}")
    assert done.run(*SHORT).returncode == 3
    settled = done.run("labtrail", "settle", run_id)
    assert settled.returncode == 0, settled.stdout + settled.stderr
    assert "changed projects.spoter.train.make_optimizer" in settled.stdout
    assert "settled:" in settled.stdout
    assert done.run(*SHORT).returncode == 0
    (pair,) = json.loads(done.client().get_run(run_id).data.tags[contract.CODE_SAME])
    assert contract.is_run_id(pair[2])

    edit(done, *BETAS)
    refused = done.run("labtrail", "settle", run_id, "--epochs", "1")
    assert refused.returncode == 1
    assert "first difference at step 0, train/loss" in refused.stdout
    assert "not settled" in refused.stdout
    assert done.run(*SHORT).returncode == 3


@pytest.mark.slow
def test_diff_names_lines_values_and_numbers(done: Workspace) -> None:
    first = run_id_of(done)
    same = done.run("labtrail", "diff", first, ".")
    assert same.returncode == 0
    assert same.stdout == "code: the same, as far as the task reaches it\n"
    edit(done, *BETAS)
    assert done.run(*SHORT, "--seed", "1").returncode == 0
    here = done.run("labtrail", "diff", first, ".")
    assert here.returncode == 1
    assert "-        parameters, lr=config.learning_rate, betas=(0.9, 0.98)" in here.stdout
    both = done.run("labtrail", "diff", first, run_id_of(done))
    assert both.returncode == 1
    for line in ("  seed: 0 -> 1", "code: changed projects.spoter.train.make_optimizer", "packages: the same"):
        assert line in both.stdout
    assert "first difference at step 0" in both.stdout
    unknown = done.run("labtrail", "diff", "abc", ".")
    assert unknown.returncode == 2
    assert "32 hexadecimal digits" in unknown.stderr


DIGITS = "--config configs/distill/digits.yaml --train.epochs 2 --model.name resnet14"
TRAININGS = {
    "spoter": ["spoter --config tiny.yaml --train.milestones [] --train.epochs 2"],
    "pamap2": ["pamap2 --config configs/pamap2/quick_sweep.yaml --train.epochs 2"],
    "distill": [f"distill {DIGITS}", f"distill {DIGITS} --method logit --teacher_model resnet14"],
    "distill-bundle": [
        f"distill {DIGITS}",
        "distill-bundle --config configs/distill-bundle/digits.yaml --train.epochs 2 --teacher_model resnet14",
    ],
    "profiler-remat": ["profiler-remat --config configs/profiler-remat/tiny.yaml --targets 2 --batch_size 4"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_each_training_task_is_repeated_to_the_bit(workspace: Workspace, name: str) -> None:
    for command in TRAININGS[name]:
        ended = workspace.run("labtrail", "run", *command.split())
        assert ended.returncode == 0, ended.stderr
    run_id = workspace.query(name).runs()["run_id"].iloc[-1]
    text = reproduce(workspace, run_id)
    assert "verdict:  to the bit" in text
    assert "numbers:  all" in text
    if name == "distill-bundle":
        # Its students are compared with it, each with one of its own.
        assert "weights:  all" in text


@pytest.mark.slow
def test_from_a_wheel_without_git(tabled: Workspace, tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = (*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source))
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("labtrail-*.whl")
    subprocess.run((*pip, "install", "--no-deps", "--target", str(installed), str(wheel)), check=True)

    lab = tabled.folder
    (lab / "src").unlink()
    shutil.rmtree(lab / "projects")
    tabled.variables["PYTHONPATH"] = str(installed)
    first = tabled.cold("python", "-m", "labtrail.console", "run", "table", "--seed", "5")
    assert first.returncode == 0, first.stderr
    run_id = of_table(tabled)["run_id"]
    facts = json.loads((tabled.artifacts(run_id) / contract.SOURCE / "source.json").read_text())
    assert facts["tree"] is None
    # Edited since, and another labtrail: its own copy has both.
    tabled.write("tabled.py", (lab / "tabled.py").read_text().replace("+ sum(values)", "- sum(values)"))
    strict = installed / "labtrail/config.py"
    strict.write_text(strict.read_text() + "\nLATER = 1\n")
    repeated = tabled.cold("python", "-m", "labtrail.console", "reproduce", run_id)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    assert "verdict:  to the bit" in repeated.stdout

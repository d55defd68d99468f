"""The platform under what users brought: states, configs, files, scripts, archives, edits, paths."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import alembic.command
import pytest
from mlflow.store.db import utils as mlflow_database
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase
from sqlalchemy import create_engine, text

from labtrail.errors import LabtrailError
from labtrail.report.archive import restore
from tests.cases.running import SCRIPTS, STORES, USE, fails_for, output_of, run_in
from tests.workspace import Workspace, wait_for_line

SAME = (
    "plain model and SGD",
    "StepLR, stepped per epoch (global epoch not given)",
    "StepLR via accelerator.prepare",
    "CosineAnnealingLR",
    "OneCycleLR per step",
    "ReduceLROnPlateau",
    "EMA beside the model (deepcopy)",
    "torch AveragedModel beside the model",
    "accelerator.register_for_checkpointing(object)",
    "EMA inside the module (the documented way)",
    "nn.Module.get_extra_state with a dict",
    "tied weights",
    "a parameter that is not contiguous",
    "a complex buffer",
    "a sparse buffer (graph adjacency)",
    "GAN: restore([g, d], [og, od])",
    "GAN: ModuleDict and an own object with state_dict (undocumented)",
    "no optimizer (evaluation, k-means): restore(model, None)",
    "LBFGS",
    "accelerate DataLoader shuffle, nobody calls reseed",
    "DataLoader with its own torch.Generator",
    "numpy default_rng kept over epochs",
    "progress ignored altogether",
    "restore never called",
)
REFUSED = {
    "GAN: restore called twice, once for each pair": "restore: it was called before",
    "progress.epoch advanced after the yield (rule 2 broken)": "progress.epoch is advanced after the yield",
}


@pytest.mark.parametrize("name", SAME)
def test_state_survives_a_kill(name: str) -> None:
    (line,) = [line for line in output_of("platform/state_probe.py").lines if line[21:].startswith(f"{name}: ")]
    assert line.startswith("same to the bit")


@pytest.mark.parametrize("name", REFUSED)
def test_state_that_would_be_lost_is_refused(name: str) -> None:
    (line,) = [line for line in output_of("platform/state_probe.py").lines if line[22:].startswith(f"{name}: ")]
    assert re.search(rf": (LabtrailError|CheckpointError): .*{REFUSED[name]}", line)


def test_a_bundles_member_is_fenced() -> None:
    output = output_of("platform/members_probe.py")
    assert output.status == 0
    assert "attempt 7 has taken it over" in output.line("Superseded ")


def test_configs_are_read_or_refused_in_words() -> None:
    output = output_of("platform/config_probe.py")
    assert output.status == 0
    assert [line for line in output.lines if line.startswith("TRACEBACK")] == []


@pytest.mark.parametrize(
    "name",
    [
        "f.txt str",
        "g.bin bytes",
        "h.csv DataFrame",
        "k.jpg Figure",
        "a.png Image",
        "b.npy ndarray",
        "c.json dict",
        "d.json list",
        "e.pt Tensor",
        "i.txt BytesIO",
    ],
)
def test_files_of_a_record_are_stored(name: str) -> None:
    assert output_of("platform/record_probe.py").line(f"{name} -> ").endswith(" bytes")


def test_a_file_of_a_record_stays_in_its_run() -> None:
    line = output_of("platform/record_probe.py").line("../evil.txt str -> ")
    assert "leads out of the run's folder" in line


@pytest.mark.parametrize("name", ["np.float32(0.5)", "np.int64(3)", fails_for(USE, "tensor(0.5000)")])
def test_numbers_of_a_record_are_taken(name: str) -> None:
    assert "'x': " in output_of("platform/record_probe.py").line(f"{name} ")


@pytest.mark.parametrize("name", [fails_for(STORES, "f.tar.gz"), fails_for(STORES, "g.tar.gz")])
def test_a_damaged_export_is_refused_in_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabtrailError) as caught:
        restore(SCRIPTS / "platform" / name)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.xfail(reason=USE, strict=True)
def test_a_bomb_of_aliases_is_refused_at_once(workspace: Workspace) -> None:
    shutil.copy(SCRIPTS / "platform/bomb.yaml", workspace.folder)
    done = workspace.run("labtrail", "run", "spoter", "--config", "bomb.yaml", timeout=8)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 500


def test_a_campaign_over_something_that_is_no_key_is_refused(workspace: Workspace) -> None:
    shutil.copy(SCRIPTS / "platform/multi.yaml", workspace.folder)
    workspace.write("quick.yaml", "train: {epochs: 1}\n")
    done = workspace.run("labtrail", "campaign", "run", "--config", "multi.yaml", "--dry-run")
    assert done.returncode == 2
    assert "cells-seed=1: --processes: unknown key" in done.stderr


@pytest.mark.parametrize("module", ["plain_after", "sk_task", "hf_task"])
def test_existing_scripts_run_as_tasks(module: str, workspace: Workspace) -> None:
    shutil.copy(SCRIPTS / "platform/existing/plain.yaml", workspace.folder)
    output = run_in(workspace, f"platform/existing/{module}.py", "--seed", "3")
    assert output.status == 0, output.lines
    again = run_in(workspace, f"platform/existing/{module}.py", "--seed", "3")
    assert any("already done" in line for line in again.lines)


def test_the_script_before_it_was_a_task_still_runs(workspace: Workspace) -> None:
    output = run_in(workspace, "platform/existing/plain_before.py", "--epochs", "1")
    assert output.status == 0
    assert output.line("best 0.")


@pytest.mark.parametrize(("name", "options"), [("reviews", ()), ("tumour", ("--train.epochs", "2"))])
def test_tasks_of_a_stranger(name: str, options: tuple[str, ...], workspace: Workspace) -> None:
    shutil.copytree(SCRIPTS / "platform/fifth-task" / name, workspace.folder / "projects" / name)
    config = SCRIPTS / f"platform/fifth-task/{name}/synthetic.yaml"
    workspace.write(f"configs/{name}/synthetic.yaml", config.read_text() if config.is_file() else "epochs: 1\n")
    listed = (workspace.folder / "pyproject.toml").read_text()
    workspace.write("pyproject.toml", listed.replace("tasks = [", f'tasks = ["projects.{name}.__main__",'))
    done = workspace.run("labtrail", "run", name, *options)
    assert done.returncode == 0, done.stderr
    assert len(workspace.query(name).runs()) == 1


def test_a_new_project_is_told_which_lines_are_missing(workspace: Workspace) -> None:
    """The contract tests on a checkout with one project more."""
    checkout = workspace.folder
    shutil.copytree(SCRIPTS / "house/hello", checkout / "projects/hello")
    (checkout / "tests/toy").unlink()
    for name in ("tests", "docs"):
        ignored = shutil.ignore_patterns("scripts", "__pycache__")
        shutil.copytree(Path(__file__).parents[2] / name, checkout / name, dirs_exist_ok=True, ignore=ignored)
    shutil.copy(Path(__file__).parents[2] / "pyproject.toml", checkout)
    done = workspace.cold("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/test_configs.py")
    assert 'pyproject.toml: add to tasks of [tool.labtrail] the line "projects.hello.tasks"' in done.stdout


@pytest.mark.xfail(reason=STORES, strict=True)
def test_a_hash_in_the_folders_name_keeps_artifacts_apart(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work#1")
    for seed, epochs in (("0", "2"), ("1", "3")):
        done = workspace.spoter("--train.milestones", "[]", "--seed", seed, "--train.epochs", epochs)
        assert done.returncode == 0, done.stderr
    steps = workspace.query().history(["train/loss"]).groupby("run_id")["step"].nunique()
    assert sorted(steps) == [2, 3]
    folders = {run.info.artifact_uri for run in workspace.client().search_runs(["1"])}
    assert len(folders) == 2
    assert (workspace.folder / "mlruns").is_dir()


def test_finished_work_of_other_code_is_not_returned_without_a_word(workspace: Workspace) -> None:
    options = ("--seed", "1", "--train.epochs", "3", "--train.milestones", "[]")
    assert workspace.spoter(*options).returncode == 0
    path = workspace.folder / "projects/spoter/train.py"
    before = path.read_text()
    edited = before.replace("    return (losses * weights).sum()", "    return 0.0 * (losses * weights).sum()")
    assert edited != before
    path.write_text(edited)
    again = workspace.spoter(*options)
    assert again.returncode == 3
    assert "clip_loss" in again.stderr


def test_a_killed_run_is_not_continued_by_other_code_without_a_word(workspace: Workspace) -> None:
    shutil.copytree(SCRIPTS / "platform/own-repo/my_project", workspace.folder / "my_project")
    workspace.write("config.yaml", "epochs: 40\n")
    with workspace.started("python", "-m", "my_project") as process:
        wait_for_line(process, "step 3")
        process.kill()
    shutil.copy(SCRIPTS / "platform/own-repo/killcode_main.py", workspace.folder / "my_project/__main__.py")
    again = workspace.run("python", "-m", "my_project")
    assert again.returncode == 3
    assert "train" in again.stderr


def test_a_typo_costs_less_than_importing_torch() -> None:
    lines = [
        line
        for line in run_script_in_checkout("house/cpu.py")
        if line.startswith(("typo", "import torch", "labtrail."))
    ]
    seconds = {line[:17].strip(): float(line.split("(")[1].split(",")[0]) for line in lines}
    assert all(seconds[name] < seconds["import torch"] / 2 for name in seconds if name != "import torch")


@pytest.mark.slow
def test_a_forked_command_ends_as_a_fresh_one() -> None:
    lines = run_script_in_checkout("house/zygote.py")
    statuses = [line.split()[:2] for line in lines if line.startswith(("fresh", "forked"))]
    assert statuses == [["fresh", "0"], ["forked", "0"], ["forked", "0"], ["fresh", "0"]]


def run_script_in_checkout(script: str) -> list[str]:
    """Runs a script that measures fresh interpreters itself, in this checkout."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:
        for name in ("src", "projects", "configs", "tests", "pyproject.toml"):
            Path(folder, name).symlink_to(root / name)
            for place in ("f1", "f2", "z1", "z2"):
                Path(folder, "scratch", place).mkdir(parents=True, exist_ok=True)
                Path(folder, "scratch", place, name).symlink_to(root / name)
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / script)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
    return done.stdout.splitlines()


@pytest.mark.xfail(reason=STORES, strict=True)
def test_a_store_of_an_older_mlflow_is_left_as_it_is(workspace: Workspace) -> None:
    store = workspace.without_store().folder / "mlflow.db"
    _store_of_mlflow_2_9(f"sqlite:///{store}")
    before = store.read_bytes()
    done = workspace.run("labtrail", "doctor")
    assert store.read_bytes() == before
    # Its own MLflow has to say how it is upgraded, and that a backup comes first.
    assert "mlflow db upgrade" in done.stdout + done.stderr


def _store_of_mlflow_2_9(uri: str) -> None:
    """The tables that MLflow 2.9.2 makes, with an experiment."""
    engine = create_engine(uri)
    InitialBase.metadata.create_all(engine)
    with engine.begin() as connection:
        config = mlflow_database._get_alembic_config(uri)
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "acf3f17fdcc7")
        connection.execute(
            text("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (1, 'old-lab', 'active')")
        )
    engine.dispose()

"""Distillation through its commands: teachers, students that are killed, the registry, and real images."""

from pathlib import Path

import pandas as pd
import pytest

from labtrail.store import contract
from projects.distill.methods import METHODS
from tests.workspace import Workspace, assert_same_weights, wait_for_line

QUICK = """
seed: 0
method: none
teacher_model: resnet8
data: {name: digits, validation: 0.3}
model: {name: resnet8, width: 4}
loss: {paraphraser_epochs: 1}
train: {epochs: 4, batch_size: 128, learning_rate: 0.05}
compute: {precision: bf16}
"""
DISTILL = ["python", "-m", "projects.distill", "--config", "quick.yaml"]
TAUGHT = sorted(set(METHODS) - {"factor"})


@pytest.mark.parametrize("method", ["factor", *(pytest.param(one, marks=pytest.mark.slow) for one in TAUGHT)])
def test_a_killed_student_continues_bit_for_bit(method: str, workspace: Workspace) -> None:
    workspace.write("quick.yaml", QUICK)
    assert workspace.run(*DISTILL).returncode == 0
    student = [*DISTILL, "--method", method]
    assert workspace.run(*student).returncode == 0
    with workspace.started(*student, "--again") as process:
        wait_for_line(process, "step 1 ")
        process.kill()
        process.wait(timeout=60)
    done = workspace.run(*student, "--again")
    assert done.returncode == 0, done.stderr
    assert "step 0 " not in done.stderr
    runs = workspace.query("distill").runs()
    own = runs[runs["cfg.method"] == method]
    assert own[contract.ATTEMPTS].tolist() == ["1", "2"]
    assert own["test/nll"].nunique() == own["test/accuracy_last"].nunique() == 1
    assert_same_weights(*(workspace.artifacts(run_id) for run_id in own["run_id"]))


@pytest.mark.slow
def test_teachers_are_finished_runs_of_the_same_images(workspace: Workspace) -> None:
    workspace.write("quick.yaml", QUICK.replace("epochs: 4", "epochs: 1"))
    none = workspace.run(*DISTILL, "--method", "logit")
    assert none.returncode == 2
    assert "no finished baseline resnet8 on digits with seed 0" in none.stderr
    done = workspace.mlflow_run("distill", "-P", "config=quick.yaml", "-P", "register=digits-teacher")
    assert done.returncode == 0, done.stderr
    teacher = workspace.query("distill").runs().iloc[0]

    for words, message in {
        ("--teacher", "models:/digits-teacher@best"): "registered ones: digits-teacher (newest)",
        ("--teacher", "f" * 32): "no such run",
        ("--data.split_seed", "3", "--teacher", teacher["run_id"]): "was trained on other images",
        ("--teacher", teacher["run_id"], "--teacher_sha256", "ab"): "expected ab",
        ("--alpha", "1.5"): "less than or equal to 1",
    }.items():
        refused = workspace.run(*DISTILL, "--method", "logit", *words)
        assert refused.returncode == 2, refused.stderr
        assert message in refused.stderr
    missing = workspace.run(*DISTILL, "--data.name", "cifar10")
    assert missing.returncode == 2
    assert "expected the official archive, found nothing there; fetch it first" in missing.stderr
    typo = workspace.run(*DISTILL, "--method", "atention")
    assert all(name in typo.stderr for name in ("control", "logit", "attention", "logitstd"))

    # Another baseline, trained in another way: the one trained as the student is counts, else somebody has to choose.
    assert workspace.run(*DISTILL, "--train.learning_rate", "0.02").returncode == 0
    assert workspace.run(*DISTILL, "--method", "sp").returncode == 0
    assert workspace.query("distill").runs().iloc[-1]["cfg.teacher"] == teacher["run_id"]
    several = workspace.run(*DISTILL, "--method", "sp", "--train.learning_rate", "0.03")
    assert several.returncode == 2
    assert "2 baselines resnet8 on digits with seed 0, trained in different ways; name one" in several.stderr

    done = workspace.run(*DISTILL, "--method", "dkd", "--teacher", "models:/digits-teacher@newest")
    assert done.returncode == 0, done.stderr
    student = workspace.query("distill").runs().iloc[-1]
    assert student["cfg.teacher"] == teacher["run_id"]
    assert student["cfg.teacher_version"] == "1"
    assert len(student["cfg.teacher_sha256"]) == 64
    assert student[contract.READS] == teacher["run_id"]
    assert 0 < student["test/teacher_agreement"] <= 1
    assert student["train/gradient_ratio"] > 0

    done = workspace.run("python", "-m", "projects.distill", "analysis")
    assert done.returncode == 0, done.stderr
    folder = workspace.artifacts(workspace.query("distill-analysis").runs()["run_id"].item())
    assert {"dkd", "none", "sp"} == set(pd.read_csv(folder / "tables/accuracy.csv")["method"])
    assert "# Findings" in (folder / "findings.md").read_text()
    assert (folder / "figures/accuracy_digits.png").is_file()


@pytest.mark.real_data
def test_real_images_from_archive_to_test(workspace: Workspace, real_data: Path) -> None:
    workspace.write("quick.yaml", QUICK.replace("epochs: 4", "epochs: 1"))
    options = ["--data.name", "cifar10", "--data.folder", str(real_data / "cifar")]
    assert workspace.run(*DISTILL, *options).returncode == 0
    done = workspace.run(*DISTILL, *options, "--method", "attention")
    assert done.returncode == 0, done.stderr
    run = workspace.query("distill").runs().iloc[-1]
    assert run["name"] == "cifar10-attention-a0.5-resnet8-s0"
    images = run["test/accuracy"] * 800
    assert images == pytest.approx(round(images), abs=1e-6)

"""Prepare and train through `mlflow run`, on synthetic recordings and on real ones."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from labtrail.store import contract
from tests.workspace import Workspace, assert_same_weights, wait_for_line

ZIP = "pamap2-subset/pamap2+physical+activity+monitoring.zip"
TINY = """
seed: 0
data: {folder: synthetic, synthetic: {subjects: 3, activities: [1, 4], bouts: 2, bout_s: 5}}
split: {protocol: loso, window: 32, step: 32}
model: {fusion: late, width: 8, layers: 2}
train: {epochs: 2}
"""


def test_training_leaves_every_subject_out_once(workspace: Workspace) -> None:
    workspace.write("tiny_pamap2.yaml", TINY)
    done = workspace.run("python", "-m", "projects.pamap2", "--config", "tiny_pamap2.yaml")
    assert done.returncode == 0, done.stderr
    run = workspace.query("pamap2").runs().iloc[0]
    assert run["name"] == "late-loso-s0"
    for name in ("macro_f1", "accuracy", "ece", "nll", "brier", "baseline_extratrees_macro_f1"):
        assert np.isfinite(run[f"test/{name}"])
    folder = workspace.artifacts(run["run_id"])
    assert {path.name for path in (folder / "checkpoints").glob("fold_*")} == {
        f"fold_{subject}.safetensors" for subject in (101, 102, 103)
    }
    assert "heads.0.weight" in load_file(folder / "checkpoints/fold_101.safetensors")
    by_fold = pd.read_csv(folder / "tables/by_fold.csv")
    by_subject = pd.read_csv(folder / "tables/by_subject.csv")
    assert by_fold["fold"].tolist() == by_subject["subject"].tolist() == [101, 102, 103]
    counts = pd.read_csv(folder / "tables/confusion.csv").drop(columns="label").to_numpy()
    assert counts.sum() == by_fold["windows"].sum()
    assert counts.trace() / counts.sum() == pytest.approx(run["test/accuracy"])
    history = workspace.query("pamap2").history(["validation/macro_f1"])
    assert history["step"].tolist() == list(range(6))


@pytest.mark.slow
def test_a_run_is_judged_beside_dedicated_ones_and_compared(workspace: Workspace) -> None:
    workspace.write("tiny_pamap2.yaml", TINY)
    train = ["python", "-m", "projects.pamap2", "--config", "tiny_pamap2.yaml"]
    done = workspace.run(*train, "--model.missing", "masked_attention")
    assert done.returncode == 0, done.stderr
    run = workspace.query("pamap2").runs().iloc[0]

    alone = workspace.run("python", "-m", "projects.pamap2", "robustness", "--dedicated", "find")
    assert alone.returncode == 2
    assert "dedicated: no finished run differs from" in alone.stderr
    assert workspace.run(*train, "--model.modalities", "chest,hand").returncode == 0
    dedicated = workspace.query("pamap2").runs().iloc[1]
    assert dedicated["name"] == "late-loso-hand+chest-s0"

    done = workspace.run(
        "python",
        "-m",
        "projects.pamap2",
        "robustness",
        "--run",
        run["run_id"],
        "--noise",
        "[0.0, 1.0]",
        "--dedicated",
        "find",
    )
    assert done.returncode == 0, done.stderr
    judged = workspace.query("pamap2-robustness").runs().iloc[0]
    assert set(judged[contract.READS].split()) == {run["run_id"], dedicated["run_id"]}
    tables = workspace.artifacts(judged["run_id"]) / "tables"
    subsets = pd.read_csv(tables / "modality_subsets.csv")
    assert {"hand", "chest", "ankle", "heart_rate", "macro_f1", "accuracy", "ece"} <= set(subsets)
    assert len(subsets.drop_duplicates(["hand", "chest", "ankle", "heart_rate"])) == len(subsets) == 15
    assert len(pd.read_csv(tables / "noise.csv")) == 30
    # With everything there it is the run's own figure.
    assert judged["test/macro_f1"] == pytest.approx(run["test/macro_f1"])
    assert judged["test/ece"] == pytest.approx(run["test/ece"], abs=1e-6)
    beside = subsets[subsets["dedicated_run"].notna()]
    assert beside[["hand", "chest", "ankle", "heart_rate"]].to_numpy().tolist() == [[True, True, False, False]]
    assert beside["dedicated_macro_f1"].item() == pytest.approx(dedicated["test/macro_f1"])
    assert judged["test/ratio_to_dedicated_worst"] == pytest.approx(
        beside["macro_f1"].item() / dedicated["test/macro_f1"]
    )
    assert judged["test/dedicated_models"] == 1

    refused = workspace.run("python", "-m", "projects.pamap2", "robustness", "--run", dedicated["run_id"])
    assert "reads hand, chest only; name one that reads all modalities" in refused.stderr

    done = workspace.run(*train, "--split.protocol", "contiguous", "--seed", "1")
    assert done.returncode == 0, done.stderr
    contiguous = workspace.query("pamap2").runs().iloc[2]
    done = workspace.run("python", "-m", "projects.pamap2", "analysis")
    assert done.returncode == 0, done.stderr
    assert "2 runs; left out: 1 on other data or on some modalities only" in done.stderr
    compared = workspace.query("pamap2-analysis").runs().iloc[0]
    assert compared["name"] == "analysis-of-2"
    folder = workspace.artifacts(compared["run_id"])
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "protocols",
        "confusion",
        "subsets",
        "ablation",
        "subjects",
        "position",
    }
    protocols = pd.read_csv(folder / "tables/protocols.csv").set_index("protocol")
    assert protocols.loc["loso", "macro_f1"] == pytest.approx(run["test/macro_f1"])
    assert protocols.loc["contiguous", "setting"] == "late, none"
    assert protocols.loc["contiguous", "run_ids"] == contiguous["run_id"]
    table = pd.read_csv(folder / "tables/subsets.csv")
    own = table[table["protocol"] == "loso"].set_index("subset")["macro_f1"]
    assert own["hand+chest"] == pytest.approx(beside["macro_f1"].item())
    assert (len(own), len(table)) == (15, 30)


def test_a_killed_training_continues_bit_for_bit(workspace: Workspace) -> None:
    workspace.write("tiny_pamap2.yaml", TINY)
    command = ["python", "-m", "projects.pamap2", "--config", "tiny_pamap2.yaml"]
    assert workspace.run(*command).returncode == 0
    whole = workspace.query("pamap2").runs()["run_id"].item()
    # In the middle of the second fold.
    with workspace.started(*command, "--again") as process:
        wait_for_line(process, "step 2 ")
        process.kill()
        process.wait(timeout=60)
    done = workspace.run(*command, "--again")
    assert done.returncode == 0, done.stderr
    runs = workspace.query("pamap2").runs()
    assert runs[contract.ATTEMPTS].tolist() == ["1", "2"]
    assert runs["test/macro_f1"].nunique() == runs["test/nll"].nunique() == 1
    assert_same_weights(*(workspace.artifacts(run_id) for run_id in (whole, runs["run_id"].iloc[1])))


@pytest.mark.slow
@pytest.mark.real_data
def test_real_recordings_from_zip_to_test(workspace: Workspace, real_data: Path) -> None:
    assert workspace.run("labtrail", "init").returncode == 0
    options = [f"source={real_data / ZIP}", "output=data/pamap2/prepared", "export.manifests=true"]
    done = workspace.mlflow_run("pamap2-prepare", *[part for option in options for part in ("-P", option)])
    assert done.returncode == 0, done.stderr
    run = workspace.query("pamap2-prepare").runs().iloc[0]
    assert (run["data/rows"], run["data/subjects"], run["data/bouts"]) == (87_692, 4, 23)
    rows = {}
    for name in ("train", "val", "test"):
        lines = (workspace.folder / f"data/pamap2/prepared/splits/{name}.txt").read_text().splitlines()
        rows[name] = sum(int(line.rpartition(",")[2]) for line in lines)
    assert rows == {"train": 61_384, "val": 13_154, "test": 13_154}
    folder = workspace.artifacts(run["run_id"])
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"bouts", "heart_rate", "missing", "rows"}

    small = ["config=configs/pamap2/contiguous.yaml", "train.epochs=2", "model.width=8", "split.step=256"]
    done = workspace.mlflow_run("pamap2", *[part for one in small for part in ("-P", one)])
    assert done.returncode == 0, done.stderr
    result = workspace.query("pamap2").runs().iloc[0]
    assert result["test/baseline_extratrees_macro_f1"] > 0.8
    assert 0 <= result["test/macro_f1"] <= 1


def test_prepared_data_that_are_gone_are_prepared_again(workspace: Workspace) -> None:
    command = [
        "python",
        "-m",
        "projects.pamap2",
        "prepare",
        "--synthetic.subjects",
        "2",
        "--synthetic.bout_s",
        "4",
        "--split.window",
        "32",
    ]
    assert workspace.run(*command).returncode == 0
    output = workspace.folder / "data/pamap2/synthetic"
    first = (output / "index.json").read_bytes()
    assert "already done" in workspace.run(*command).stderr
    shutil.rmtree(output.resolve())
    output.unlink()
    done = workspace.run(*command)
    assert done.returncode == 0, done.stderr
    assert "already done" not in done.stderr
    assert (output / "index.json").read_bytes() == first


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--model.fusion", "late", "--model.heads", "4"], "heads belongs to hybrid; fusion late has no such option"),
        (["--split.protocol", "subject106"], "subject 106 is not in the data, which have [101, 102, 103, 104]"),
        (["--split.guard", "3"], "come within 3 rows of each other inside a bout; a window has 64; raise split.guard"),
        (["--data.folder", "absent"], "absent: expected a prepared data set, found no index.json; prepare one"),
        (["prepare", "--source", "absent.zip"], "absent.zip: expected the data set's zip or a folder of .dat files"),
    ],
)
def test_bad_input_is_one_line(options: list[str], wanted: str, workspace: Workspace) -> None:
    workspace.without_store()
    done = workspace.run("python", "-m", "projects.pamap2", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert wanted in line
    assert not (workspace.folder / "mlflow.db").exists()

"""Profiles and their comparison through `mlflow run`, and ends that are honest."""

import pandas as pd
import pytest

from labtrail.store import contract
from tests.workspace import Workspace

PROFILE = {
    "node_stats.csv",
    "activation_stats.csv",
    "summary.txt",
    "report.html",
    "config.yaml",
    "source",
    "figures",
    "tables",
    "batch_2",
}
FIGURES = {
    "node_runtime.png",
    "node_peak.png",
    "activation_sizes.png",
    "inactive_time.png",
    "memory_timeline.png",
    "memory_by_batch.png",
}


def profiler(workspace: Workspace, *options: str):
    return workspace.run("python", "-m", "projects.profiler", "--config", "configs/profiler/tiny.yaml", *options)


@pytest.mark.slow
def test_a_profile_and_a_comparison(workspace: Workspace) -> None:
    first = workspace.mlflow_run("profiler", "-P", "config=configs/profiler/tiny.yaml", "-P", "batch_sizes=2,4")
    assert first.returncode == 0, first.stderr
    runs = workspace.query("profiler").runs()
    run = runs.iloc[0]
    assert run["name"] == "tiny-b2-4"
    folder = workspace.artifacts(run["run_id"])
    assert {path.name for path in folder.iterdir()} == PROFILE
    assert {path.name for path in (folder / "figures").iterdir()} >= FIGURES
    smaller = folder / "batch_2"
    assert {path.name for path in smaller.iterdir()} == PROFILE - {
        "report.html",
        "config.yaml",
        "source",
        "tables",
        "batch_2",
    }
    assert {path.name for path in (smaller / "figures").iterdir()} == FIGURES - {"memory_by_batch.png"}
    nodes, kept = pd.read_csv(folder / "node_stats.csv"), pd.read_csv(folder / "activation_stats.csv")
    assert list(nodes.columns[:7]) == ["id", "name", "op", "phase", "role", "run_time_s", "peak_memory_bytes"]
    assert {"forward", "backward", "optimizer"} == set(nodes["phase"])
    assert (kept["memory_bytes"] > 0).any()
    history = workspace.query("profiler").history(
        ["profile/peak_bytes_predicted", "profile/peak_bytes_measured", "profile/step_time_s"]
    )
    assert history.groupby("metric")["step"].apply(list).tolist() == [[2, 4]] * 3
    peaks = history.pivot_table(index="step", columns="metric", values="value")
    predicted, measured = (peaks[f"profile/peak_bytes_{name}"].tolist() for name in ("predicted", "measured"))
    assert predicted == pytest.approx(measured, rel=0.001)
    assert nodes["peak_memory_bytes"].max() == measured[-1]

    spoter = profiler(
        workspace,
        "--model",
        "spoter",
        "--settings.model.layers",
        "1",
        "--batch_sizes",
        "2",
        "--optimizer",
        "sgd",
        "--compute.precision",
        "bf16",
    )
    assert spoter.returncode == 0, spoter.stderr
    again = profiler(workspace, "--batch_sizes", "2,4", "--again")
    assert again.returncode == 0, again.stderr

    done = workspace.mlflow_run("profiler-compare")
    assert done.returncode == 0, done.stderr
    compared = workspace.query("profiler-compare").runs().iloc[0]
    steps = pd.read_csv(workspace.artifacts(compared["run_id"]) / "tables/steps.csv")
    # What was profiled twice counts once.
    assert steps["batch_size"].tolist() == [2, 2, 4]
    assert steps["model"].tolist() == ["spoter", "tiny", "tiny"]
    assert run["run_id"] not in set(steps["run_id"])
    assert set(compared[contract.READS].split()) == set(steps["run_id"])
    words = (workspace.artifacts(compared["run_id"]) / "comparison.md").read_text()
    assert all(run_id in words for run_id in set(steps["run_id"]))


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--batch_sizes", "0"), 2, "expected different numbers of at least 1, found 0"),
        (("--model", "resnet"), 2, "model: 'resnet' is unknown; valid: resnet50"),
        (("--optimizer", "lbfgs"), 2, "--optimizer: input should be 'adamw'"),
    ],
)
def test_bad_input_starts_nothing(workspace: Workspace, options: tuple[str, ...], status: int, says: str) -> None:
    workspace.without_store()
    done = profiler(workspace, *options)
    assert done.returncode == status
    assert says in done.stderr
    assert not (workspace.folder / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--model", "bert-large", "--batch_sizes", "4096"), "out of memory: a step needs"),
        (
            (
                "--model",
                "whisper-tiny",
                "--settings.encoder_layerdrop",
                "0.5",
                "--batch_sizes",
                "1",
                "--settings.encoder_layers",
                "1",
                "--settings.decoder_layers",
                "1",
            ),
            "a number is read out of a tensor",
        ),
    ],
)
def test_a_profile_that_fails_says_why(workspace: Workspace, options: tuple[str, ...], says: str) -> None:
    done = profiler(workspace, *options)
    assert done.returncode == 1
    assert sum(says in line for line in done.stderr.splitlines() if line.startswith("error: ")) == 1
    assert "Traceback" not in done.stderr
    runs = workspace.query("profiler", statuses=("FAILED",)).runs()
    assert says in runs.iloc[0][contract.STATUS_REASON]

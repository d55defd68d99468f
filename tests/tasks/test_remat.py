"""Less memory through `mlflow run`: a plan with its frontier, and tasks that train under one."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from labtrail.store import contract
from tests.workspace import Workspace

SMALL = """
seed: 0
model: gpt2
settings: {n_embd: 32, n_layer: 3, n_head: 2, vocab_size: 64, n_positions: 64, bos_token_id: 1, eos_token_id: 2}
batch_size: 4
sequence_length: 64
iterations: 1
targets: 4
torch_budgets: [0.2, 1]
solve_s: 1
"""
FIGURES = {"frontier.png", "by_batch.png", "beside_torch.png"}
COLUMNS = ["target_bytes", "peak_bytes", "extra_time_s", "extra_time_fraction", "solver", "gap"]


def remat(workspace: Workspace, *options: str):
    return workspace.run("python", "-m", "projects.profiler", "remat", "--config", "small.yaml", *options)


@pytest.mark.slow
def test_a_plan_its_frontier_and_torchs(workspace: Workspace) -> None:
    workspace.write("small.yaml", SMALL)
    done = workspace.mlflow_run("profiler-remat", "-P", "config=small.yaml", "-P", "memory=0.7")
    assert done.returncode == 0, done.stderr
    run = workspace.query("profiler-remat").runs().iloc[0]
    assert run["name"] == "gpt2-b4-0.7"
    folder = workspace.artifacts(run["run_id"])
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES
    plan = json.loads((folder / "plan.json").read_text())
    own, torchs = pd.read_csv(folder / "frontier.csv"), pd.read_csv(folder / "frontier_torch.csv")
    assert list(own.columns) == COLUMNS
    assert list(torchs.columns[:6]) == COLUMNS
    assert (own["peak_bytes"] <= own["target_bytes"]).all()
    assert own["extra_time_s"].is_monotonic_increasing
    assert set(pd.read_csv(folder / "frontier_mu_two.csv")["solver"]) == {"mu-two"}
    # Dropout is on: where torch saves much it draws again, and its gradients are wrong.
    assert torchs["draws_again"].any()
    names = ("peak_bytes", "extra_time_fraction", "peak_bytes_measured", "baseline_peak_bytes")
    found = workspace.query("profiler-remat").history([f"remat/{name}" for name in names])
    table = found.pivot_table(index="step", columns="metric", values="value")
    assert table.index.tolist() == [2, 4]
    peaks = [table[f"remat/{one}"].to_numpy() for one in ("peak_bytes", "peak_bytes_measured")]
    assert peaks[0] == pytest.approx(peaks[1], rel=1e-3)
    assert (table["remat/peak_bytes"] <= 0.7 * table["remat/baseline_peak_bytes"]).all()
    assert plan["peak_bytes"] == table.loc[4, "remat/peak_bytes"]
    assert 0 <= plan["bound_s"] <= plan["extra_time_s"]
    assert len(plan["dropped"]) > 0

    timed = remat(workspace, "--memory", "0.8", "--times", "measured", "--batch_sizes", "4")
    assert timed.returncode == 0, timed.stderr
    runs = workspace.query("profiler-remat").runs()
    other = runs.loc[runs["run_id"] != run["run_id"], "run_id"].item()
    assert not (workspace.artifacts(other) / "frontier_torch.csv").exists()


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (("--memory", "0.01"), 1, "are not reached by recomputation; the least that was found is"),
        (("--memory", "0"), 2, "--memory: input should be greater than 0"),
        (("--batch_size", "0"), 2, "--batch_size: input should be greater than or equal to 1"),
        (("--times", "abacus"), 2, "--times: input should be 'a100'"),
    ],
)
def test_what_cannot_be_is_said(workspace: Workspace, options: tuple[str, ...], status: int, says: str) -> None:
    workspace.write("small.yaml", SMALL)
    done = remat(workspace, *options)
    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if status == 1:
        assert says in workspace.query("profiler-remat", statuses=("FAILED",)).runs().iloc[0][contract.STATUS_REASON]


@pytest.mark.parametrize(
    ("task", "memory", "words"),
    [
        ("distill", "0.7", ("--config", "configs/distill/digits.yaml", "--train.epochs", "1")),
        ("pamap2", "0.7", ("--config", "configs/pamap2/synthetic.yaml", "--train.epochs", "1")),
        ("spoter", "0.85", ("--config", "tiny.yaml", "--train.epochs", "1", "--train.batch_size", "12")),
    ],
)
def test_a_task_under_a_plan_gives_the_same_figures(
    workspace: Workspace, task: str, memory: str, words: tuple[str, ...]
) -> None:
    for more in ((), ("--remat.memory", memory)):
        done = workspace.run("python", "-m", f"projects.{task}", *words, *more)
        assert done.returncode == 0, done.stderr
    assert re.search(r"[1-9]\d* activations are computed again", done.stderr)
    runs = workspace.query(task).runs()
    scores = runs[[name for name in runs.columns if name.startswith(("train/", "validation/", "test/"))]]
    assert scores.shape[0] == 2
    assert "train/loss" in scores
    assert np.array_equal(scores.iloc[0].to_numpy(float), scores.iloc[1].to_numpy(float), equal_nan=True)

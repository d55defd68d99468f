"""Real clips, imported and trained through `mlflow run`, beside the baseline of the same run."""

from pathlib import Path

import pandas as pd
import pytest

from tests.workspace import Workspace


@pytest.mark.slow
@pytest.mark.real_data
def test_real_clips_from_import_to_test(workspace: Workspace, real_data: Path) -> None:
    source = real_data / "wlasl50"
    done = workspace.mlflow_run("fetch", "-P", "dataset=wlasl50", "-P", f"from_file={source}")
    assert done.returncode == 0, done.stderr
    # Two epochs of a smaller network: that it learns is the figure in the README, not the point here.
    short = ["train.epochs=2", "model.layers=2", "train.milestones=1,2"]
    options = [part for value in short for part in ("-P", value)]
    done = workspace.mlflow_run("spoter", "-P", "config=configs/spoter/wlasl50.yaml", *options)
    assert done.returncode == 0, done.stderr
    run = workspace.client().get_run(workspace.query().runs()["run_id"].item())
    assert run.inputs is not None
    profiles = {
        dataset_input_.tags[0].value: str(dataset_input_.dataset.profile)
        for dataset_input_ in run.inputs.dataset_inputs
    }
    for split, count in (("train", 276), ("validation", 50), ("test", 47)):
        assert f'"clips": {count}' in profiles[split]
    metrics = run.data.metrics
    assert metrics["test/baseline_1nn"] == pytest.approx(27 / 47)
    assert metrics["validation/baseline_1nn"] == pytest.approx(27 / 50)
    assert metrics["test/accuracy"] <= metrics["test/accuracy_top5"]
    assert metrics["test/accuracy_low"] <= metrics["test/accuracy"] <= metrics["test/accuracy_high"]
    assert metrics["test/accuracy_max"] >= metrics["test/accuracy"]

    # The rest of the README's chain: attention at three epochs, analysis, and the page to look into.
    done = workspace.run("python", "-m", "projects.spoter", "attention", "--epochs", "0,1,2")
    assert done.returncode == 0, done.stderr
    done = workspace.run("python", "-m", "projects.spoter", "analysis", "--statistics.permutations", "20")
    assert done.returncode == 0, done.stderr
    assert "1 of 47 clips have one frame" in done.stderr
    folder = workspace.artifacts(workspace.query("spoter-analysis").runs()["run_id"].item())
    assert (folder / "mbert/status.txt").read_text() == "not_run: mBERT weights absent\n"
    names = sorted(path.stem for path in (folder / "figures/cases").glob("*.png"))
    assert names[0] == "1_drink"
    assert len(names) == 8
    table = pd.read_parquet(folder / "tables/head_statistics.parquet")
    assert sorted(table["epoch"].unique()) == [0, 1, 2]
    # One of the 47 clips has a single frame, which leaves attention no choice.
    assert table.loc[table["statistic"] == "entropy", "clips"].unique().tolist() == [46]
    page = (folder / "viewer.html").read_text()
    assert len(page) < 10e6
    assert '"sign": "drink"' in page

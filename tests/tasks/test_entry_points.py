"""The entry points as people call them, and what their runs then carry."""

import gzip
import json
from contextlib import ExitStack

import pandas as pd
import pytest
import torch
import yaml

from labtrail.running.cli import run_tasks
from labtrail.store import contract
from projects.spoter.tasks import TRAINING as SPOTER
from tests.workspace import FIXTURES, Workspace

METRICS = {
    "train/loss",
    "train/accuracy",
    "train/learning_rate",
    "validation/loss",
    "validation/accuracy",
    "validation/accuracy_top5",
    "test/loss",
    "test/accuracy",
    "test/accuracy_top5",
    "test/accuracy_low",
    "test/accuracy_high",
    "test/accuracy_max",
    "test/accuracy_max_low",
    "test/accuracy_max_high",
    "test/accuracy_top5_low",
    "test/accuracy_top5_high",
    "test/baseline_1nn",
    "validation/baseline_1nn",
    "best/validation/accuracy",
    "best/epoch",
    "system/epoch_seconds",
    "system/memory_mib",
}
ARTIFACTS = {
    "config.yaml",
    "checkpoints/last/model.safetensors",
    "checkpoints/last/optimizer.pt",
    "checkpoints/last/random_states_0.pt",
    "checkpoints/last/state.json",
    "checkpoints/best.pt",
    "checkpoints/epoch_002.pt",
    "checkpoints/epoch_004.pt",
    "figures/curves.png",
    "figures/confusion.png",
    "tables/confusion.csv",
    "tables/predictions.csv",
}


def test_spoter_fulfils_the_run_contract(workspace: Workspace) -> None:
    assert workspace.run("labtrail", "init").returncode == 0
    done = workspace.mlflow_run("spoter", "-P", "config=tiny.yaml", "-P", "seed=3", "-P", "train.label_smoothing=1e-1")
    assert done.returncode == 0, done.stderr
    client = workspace.client()
    frame = workspace.query().runs()
    run = client.get_run(frame["run_id"].item())
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "spoter"
    assert run.info.run_name == "synthetic-adamw-s3"
    assert set(run.data.metrics) == METRICS
    # Bare keys are what was asked, cfg.* is what ran.
    assert run.data.params["seed"] == "3"
    assert run.data.params["cfg.seed"] == "3"
    assert run.data.params["cfg.train.label_smoothing"] == "0.1"
    assert run.data.params["cfg.model.heads"] == "9"
    tags = run.data.tags
    expected = (contract.TASK, contract.KEY, contract.DEVICE, contract.TORCH, contract.PROCESSES, contract.NOTE)
    assert set(expected) <= set(tags)
    assert contract.STATUS_REASON not in tags
    assert tags[contract.NOTE].startswith("Task `spoter`, synthetic-adamw-s3, on cpu (")
    assert "Result: test/accuracy " in tags[contract.NOTE]
    assert "synthetic-train" in tags[contract.NOTE]
    assert run.inputs is not None
    contexts = {
        (dataset_input_.dataset.name, dataset_input_.tags[0].value) for dataset_input_ in run.inputs.dataset_inputs
    }
    assert contexts == {(f"synthetic-{split}", split) for split in ("train", "validation", "test")}

    folder = workspace.artifacts(run.info.run_id)
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    # The workspace is no repository, and so there is no patch.
    kept = {f"source/{name}" for name in ("code.tar.gz", "source.json", "environment.json", "requirements.txt")}
    assert found == ARTIFACTS | kept | {contract.code_file(tags[contract.CODE])}
    assert tags[contract.SOURCE_KEPT] == "complete"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["train"]["label_smoothing"] == 0.1
    counts = pd.read_csv(folder / "tables/confusion.csv", index_col="label")
    predictions = pd.read_csv(folder / "tables/predictions.csv")
    assert counts.to_numpy().sum() == len(predictions) == 8
    accuracy = (predictions["label"] == predictions["prediction"]).mean()
    assert accuracy == pytest.approx(run.data.metrics["test/accuracy"])
    assert accuracy == pytest.approx((predictions["rank"] == 1).mean())
    assert counts.to_numpy().trace() / 8 == pytest.approx(accuracy)
    # Portable checkpoints hold the published names, and nothing but tensors and plain values.
    names = torch.load(folder / "checkpoints/best.pt", weights_only=True)["model_state_dict"]
    published = json.loads((FIXTURES / "spoter/keys.json").read_text())["keys"]
    assert set(names) < {name for name, _ in published}
    history = workspace.query().history(["train/loss", "validation/accuracy", "best/validation/accuracy"])
    assert history[history["metric"] == "train/loss"]["step"].tolist() == [0, 1, 2, 3]
    best = history[history["metric"] == "best/validation/accuracy"]["value"].tolist()
    assert best == sorted(set(best))
    assert best[-1] == history[history["metric"] == "validation/accuracy"]["value"].max()


def test_tour_ends_with_a_table_and_links(workspace: Workspace) -> None:
    small = {"seed": "5", "train.epochs": "1", "data.synthetic.train": "16", "model.layers": "1"}
    stop = {"project": "spoter", "config": "configs/spoter/synthetic.yaml", "overrides": small}
    workspace.write("tour.yaml", yaml.safe_dump({"stops": [stop]}))
    command = ["mlflow", "run", ".", "--env-manager", "local", "--experiment-name", "tour", "-P", "config=tour.yaml"]
    done = workspace.run(*command)
    assert done.returncode == 0, done.stderr
    run_id = workspace.query().runs()["run_id"].item()
    experiment = workspace.query().runs()["experiment_id"].item()
    assert "SYNTHETIC" in done.stdout
    assert run_id in done.stdout
    assert "make ui" in done.stdout
    assert f"#/experiments/{experiment}/runs?compareRunsMode=CHART" in done.stdout
    tour = workspace.query("tour").runs()["run_id"].item()
    table = pd.read_csv(workspace.artifacts(tour) / "tables/tour.csv")
    assert table["run_id"].tolist() == [run_id]


@pytest.mark.slow
def test_fetch_imports_and_train_reads(workspace: Workspace) -> None:
    from projects.spoter.config import SyntheticConfig
    from projects.spoter.synthetic import generate, to_csv

    size = SyntheticConfig(classes=3, train=9, validation=3, test=3, frames=5)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        clips, labels = generate(split, size)
        header, *rows = to_csv(clips, labels).splitlines()
        lines = [f"{header},labels_50", *(f"{row},{label}" for row, label in zip(rows, labels, strict=True))]
        path = workspace.folder / f"source/WLASL50_mediapipe_{name}.csv.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    done = workspace.mlflow_run("fetch", "-P", "dataset=wlasl50", "-P", "from_file=source")
    assert done.returncode == 0, done.stderr
    assert "no commercial use" in done.stderr
    small = ["train.epochs=1", "model.layers=1", "model.feed_forward=16", "data.classes=3"]
    options = [part for value in small for part in ("-P", value)]
    done = workspace.mlflow_run("spoter", "-P", "config=configs/spoter/wlasl50.yaml", *options)
    assert done.returncode == 0, done.stderr
    assert workspace.query().runs()["name"].tolist() == ["wlasl50-adamw-s0"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_several_at_once_through_mlflow(count: int, workspace: Workspace) -> None:
    assert workspace.run("labtrail", "init").returncode == 0
    base = ["mlflow", "run", ".", "-e", "spoter", "--env-manager", "local", "--experiment-name", "spoter"]
    options = ["-P", "config=tiny.yaml", "-P", "train.epochs=2"]
    _all_succeed(workspace, [[*base, *options, "-P", f"seed={seed}"] for seed in range(count)])
    _assert_complete_runs(workspace, count)


@pytest.mark.slow
def test_eight_at_once_on_a_store_that_is_not_there(workspace: Workspace) -> None:
    workspace.without_store()
    base = ["python", "-m", "projects.spoter", "--config", "tiny.yaml", "--train.epochs", "2"]
    _all_succeed(workspace, [[*base, "--seed", str(seed)] for seed in range(8)])
    _assert_complete_runs(workspace, 8)


def _all_succeed(workspace: Workspace, commands: list[list[str]]) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(workspace.started(*words)) for words in commands]
        for process in running:
            _, errors = process.communicate(timeout=400)
            assert process.returncode == 0, errors


def _assert_complete_runs(workspace: Workspace, count: int) -> None:
    client = workspace.client()
    names = {
        search_experiment.experiment_id: search_experiment.name for search_experiment in client.search_experiments()
    }
    runs = workspace.query().runs()
    assert sorted(runs["cfg.seed"].astype(int)) == list(range(count))
    assert {names[run] for run in runs["experiment_id"]} == {"spoter"}
    assert runs["test/accuracy"].notna().all()
    assert len(workspace.query().history(["train/loss"])) == 2 * count
    assert client.search_runs(["0"]) == []


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--train.epoch", "3"], "--train.epoch: unknown key (did you mean 'epochs'?)"),
        (["--train.epochs", "0"], "--train.epochs: input should be greater than or equal to 1, found 0"),
        (["--config", "absent.yaml"], "absent.yaml: no such config file"),
        (["--data.train", "absent.csv"], "absent.csv: no such file; import it with"),
        (["--compute.precision", "fp16"], "compute.precision: fp16 needs a GPU"),
        (["train.epochs=3"], "train.epochs=3: unexpected argument; values are given as --key value"),
        (["--seed"], "--seed: a value is missing"),
        (["--processes", "0"], "0 is not in the range"),
    ],
)
def test_bad_input_starts_nothing(
    options: list[str],
    wanted: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workspace.without_store()
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as caught:
        run_tasks([SPOTER], "projects.spoter", ["--config", "tiny.yaml", *options])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert wanted in lines[0]
    assert not (workspace.folder / "mlflow.db").exists()
    assert not (workspace.folder / "mlruns").exists()


def test_refusal_under_mlflow_keeps_its_reason(workspace: Workspace) -> None:
    done = workspace.mlflow_run("spoter", "-P", "config=tiny.yaml", "-P", "train.epoch=3")
    assert done.returncode != 0
    assert "error: --train.epoch: unknown key (did you mean 'epochs'?)" in done.stderr
    (run,) = workspace.client().search_runs(["1"])
    assert run.info.status == "FAILED"
    assert run.data.tags[contract.STATUS_REASON].startswith("REFUSED: --train.epoch")
    assert workspace.query().runs().empty


def test_unknown_data_set_lists_the_valid_ones(workspace: Workspace) -> None:
    done = workspace.run("python", "-m", "projects.fetch", "--dataset", "wlasl")
    assert done.returncode == 2
    known = "cifar10, cifar100, pamap2, svhn, tinyimagenet, wlasl100, wlasl50"
    assert done.stderr == f"error: dataset 'wlasl' is unknown; valid: {known}\n"


def test_help_and_print_config(workspace: Workspace) -> None:
    workspace.without_store()
    shown = workspace.spoter("--help")
    assert shown.returncode == 0
    for text in ("--train.learning_rate [0.001]  peak learning rate", "--again", "--processes", "--print-config"):
        assert text in shown.stdout
    printed = workspace.spoter("--print-config", "--seed", "9")
    assert yaml.safe_load(printed.stdout)["seed"] == 9
    assert printed.stderr == ""
    assert not (workspace.folder / "mlflow.db").exists()

"""Train, extract, analyse through `mlflow run`: what the runs carry, and what is refused."""

from pathlib import Path

import pandas as pd
import pytest
from safetensors.numpy import load_file

from labtrail.errors import DataError, LabtrailError, QueryError
from labtrail.running.cli import run_tasks
from labtrail.store import contract
from projects.spoter.attention import resolve as resolve_attention
from projects.spoter.attention import sources
from projects.spoter.attention_file import AttentionFile
from projects.spoter.config import AnalysisConfig, AttentionConfig, InterventionConfig
from projects.spoter.interpret.study import load_study
from projects.spoter.interpret.study import resolve as resolve_analysis
from projects.spoter.subject import load_subject, network
from projects.spoter.tasks import TASKS
from tests.unit.spoter.study import CPU
from tests.workspace import Workspace

FIGURES = {
    "ablation",
    "cka_epochs",
    "cka_layers",
    "deletion",
    "distance",
    "divergence",
    "entropy",
    "heads",
    "occlusion",
    "reading",
}
TABLES = {
    "cka.csv",
    "deletion.csv",
    "deletion_curves.csv",
    "head_statistics.parquet",
    "occlusion.csv",
    "reading.csv",
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which the three commands of the README have run, on a tiny network and SYNTHETIC clips."""
    workspace = Workspace(tmp_path_factory.mktemp("chain"))
    assert workspace.run("labtrail", "init").returncode == 0
    assert workspace.spoter().returncode == 0
    for entry_point, *options in (
        ("spoter-attention", "-P", "epochs=0,2,4", "-P", "export_pt=true"),
        ("spoter-analysis", "-P", "statistics.permutations=50", "-P", "cases.count=2"),
    ):
        done = workspace.mlflow_run(entry_point, *options)
        assert done.returncode == 0, done.stderr
    return workspace


@pytest.fixture
def here(chain: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same, with this process inside it."""
    monkeypatch.chdir(chain.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    return chain


def run_of(workspace: Workspace, task: str) -> pd.Series:
    return workspace.query(task).runs().iloc[0]


def test_extraction_carries_its_files_and_where_they_came_from(chain: Workspace) -> None:
    run, training = run_of(chain, "spoter-attention"), run_of(chain, "spoter")
    assert run[contract.READS] == run["cfg.run"] == training["run_id"]
    assert run["cfg.epochs"] == "(0, 2, 4)"
    assert run["name"] == f"attention-test-{training['run_id'][:8]}"
    folder = chain.artifacts(run["run_id"]) / "attention"
    names = [f"epoch_{epoch:03d}.safetensors" for epoch in (0, 2, 4)]
    assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    assert len(list(folder.glob("attention_epoch*.pt"))) == 3
    tensors = load_file(folder / "epoch_004.safetensors")
    assert {"enc_0", "dec_0", "offsets_enc", "offsets_dec", "frames", "labels", "predictions"} <= set(tensors)
    file = AttentionFile(folder / "epoch_004.safetensors")
    assert file.facts["run"] == training["run_id"]
    assert len(file.facts["checkpoint_sha256"]) == len(file.facts["data_sha256"]) == 64
    # The last epoch was the best one or not; its accuracy is that of its own predictions.
    history = chain.query("spoter-attention").history(["test/accuracy"])
    assert history["step"].tolist() == [0, 2, 4]
    assert history["value"].iloc[-1] == pytest.approx((file.predictions == file.labels).mean())


def test_analysis_carries_tables_figures_pages_and_no_language_number(chain: Workspace) -> None:
    run = run_of(chain, "spoter-analysis")
    folder = chain.artifacts(run["run_id"])
    assert run[contract.READS].split() == sorted([run_of(chain, "spoter")["run_id"], run["cfg.run"]])
    assert {path.stem for path in (folder / "figures").glob("*.png")} == FIGURES
    assert {path.name for path in (folder / "tables").iterdir()} == TABLES
    assert len(list((folder / "figures/cases").glob("*.png"))) == 2
    assert (folder / "viewer.html").stat().st_size < 10e6
    assert (folder / "mbert/status.txt").read_text() == "not_run: mBERT weights absent\n"
    findings = (folder / "findings.md").read_text()
    assert "SYNTHETIC" in findings
    assert "sees a *set* of frames" in findings
    table = pd.read_parquet(folder / "tables/head_statistics.parquet")
    assert set(table["statistic"]) == {"entropy", "divergence", "distance", "ablation"}
    assert table.groupby("statistic")["epoch"].unique().map(list).to_dict()["entropy"] == [0, 2, 4]
    assert not table.isna().to_numpy().any()
    # Before training a network is its own null.
    untrained = table[(table["epoch"] == 0) & (table["statistic"] == "entropy")]
    assert untrained["difference"].abs().max() < 1e-3
    assert run["test/order_change"] < 1e-4


def test_analysis_finds_the_extraction_of_a_training(here: Workspace) -> None:
    training = run_of(here, "spoter")["run_id"]
    found = resolve_analysis(AnalysisConfig(run=training))
    assert found.run == run_of(here, "spoter-attention")["run_id"]
    assert found.epochs == (0, 2, 4)
    assert found.intervention.epochs == (4,)


def test_few_clips_and_one_head_are_no_error(workspace: Workspace) -> None:
    # One head, and a test split with fewer clips than a jackknife needs.
    small = ["--model.heads", "1", "--data.synthetic.test", "3", "--train.epochs", "2", "--train.milestones", "1,2"]
    assert workspace.spoter(*small).returncode == 0
    for words in (["attention"], ["analysis", "--intervention.epochs", "1", "--cases.count", "1"]):
        done = workspace.run("python", "-m", "projects.spoter", *words)
        assert done.returncode == 0, done.stderr
    query = workspace.query("spoter-analysis")
    # What was measured at epoch 1 stands at step 1.
    assert query.history(["test/deletion_auc_random"])["step"].tolist() == [1]
    folder = workspace.artifacts(query.runs()["run_id"].item())
    assert pd.read_csv(folder / "tables/cka.csv")["low"].isna().all()
    assert "divergence" not in set(pd.read_parquet(folder / "tables/head_statistics.parquet")["statistic"])


def test_case_studies_follow_their_rule(here: Workspace) -> None:
    study = load_study(resolve_analysis(AnalysisConfig()), CPU)
    chosen = study.few(3)
    labels = study.split.labels
    assert labels[chosen].tolist() == [0, 2, 3]
    assert all(clip == list(labels).index(labels[clip]) for clip in chosen)


def refusal(config: AttentionConfig | AnalysisConfig) -> str:
    with pytest.raises(LabtrailError) as caught:
        (resolve_attention if isinstance(config, AttentionConfig) else resolve_analysis)(config)  # ty: ignore[invalid-argument-type]
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
    return str(caught.value)


def test_epochs_that_are_not_there_are_named_with_those_that_are(here: Workspace) -> None:
    assert "no checkpoint of epoch 3, 7; it kept 2, 4" in refusal(AttentionConfig(epochs=(2, 3, 7)))
    assert "epochs: epoch 9 was not extracted" in refusal(AnalysisConfig(epochs=(4, 9)))
    elsewhere = AnalysisConfig(epochs=(2,), intervention=InterventionConfig(epochs=(4,)))
    assert "intervention.epochs: epoch 4 was not extracted" in refusal(elsewhere)


def test_runs_of_the_wrong_kind_are_refused(here: Workspace) -> None:
    extraction = run_of(here, "spoter-attention")["run_id"]
    assert "of task spoter-attention, expected spoter" in refusal(AttentionConfig(run=extraction))
    assert "extract it first: mlflow run" in refusal(AnalysisConfig(run="0" * 32))


def test_unfinished_training_is_refused(here: Workspace) -> None:
    client = here.client()
    run_id = client.create_run("1", tags={contract.TASK: "spoter"}, run_name="half").info.run_id
    try:
        assert f"run {run_id}: spoter half is RUNNING, not FINISHED" in refusal(AttentionConfig(run=run_id))
    finally:
        client.delete_run(run_id)


def test_missing_artifacts_are_named(here: Workspace) -> None:
    run = run_of(here, "spoter-attention")
    path = here.artifacts(run["run_id"]) / "attention/epoch_002.safetensors"
    hidden = path.rename(path.with_name("hidden"))
    try:
        with pytest.raises(QueryError, match=r"no artifact attention/epoch_002\.safetensors; it has .*epoch_004"):
            load_study(resolve_analysis(AnalysisConfig()), CPU)
    finally:
        hidden.rename(path)


def test_damaged_checkpoint_and_other_class_count_are_named(here: Workspace) -> None:
    subject = load_subject(run_of(here, "spoter")["run_id"])
    with pytest.raises(DataError, match="a checkpoint of 4 classes, but the run's data now have 7"):
        network(subject, 4, classes=7)
    path = here.artifacts(subject.run_id) / "checkpoints/epoch_004.pt"
    content = path.read_bytes()
    path.write_bytes(content[:500])
    try:
        with pytest.raises(LabtrailError, match=r"epoch_004\.pt: not a readable checkpoint"):
            network(subject, 4, classes=4)
    finally:
        path.write_bytes(content)


def test_changed_data_are_noticed(here: Workspace) -> None:
    config = resolve_attention(AttentionConfig())
    path = Path(sources(config)[0].location)
    content = path.read_text()
    try:
        path.write_text("\n".join(content.splitlines()[:-1]))
        with pytest.raises(DataError, match="made from other data than"):
            load_study(resolve_analysis(AnalysisConfig()), CPU)
    finally:
        path.write_text(content)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["attention", "--epochs", "3"], "no checkpoint of epoch 3; it kept 2, 4"),
        (["attention", "--split", "dev"], "--split: input should be 'train', 'validation' or 'test', found 'dev'"),
        (["analysis", "--mbert", "absent"], "absent: no language model"),
    ],
)
def test_command_line_refuses_in_one_line(
    words: list[str], wanted: str, here: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_tasks(TASKS, "projects.spoter", words)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert wanted in line

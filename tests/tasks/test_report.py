"""Reports, digests, archives and links as people ask for them on the command line."""

import re

import pandas as pd
import pytest

from labtrail.store import connection, contract
from tests import invented
from tests.workspace import Workspace


@pytest.fixture
def filled(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A store with one round of invented runs, one of which failed."""
    monkeypatch.chdir(workspace.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    invented.fill(methods=["none", "logit"], alphas=[0.25, 0.5, 0.75], seeds=2, epochs=4)
    return workspace


def reported(workspace: Workspace, *options: str):
    return workspace.run(
        "mlflow", "run", ".", "-e", "report", "--env-manager", "local", "--experiment-name", "report", *options
    )


def test_a_report_is_a_run_with_a_page_figures_and_tables(filled: Workspace) -> None:
    done = reported(filled, "-P", "campaign=round")
    assert done.returncode == 0, done.stderr
    runs = filled.query("report").runs()
    assert runs["name"].tolist() == ["report-round"]
    assert runs["report/runs"].tolist() == [8.0]
    folder = filled.artifacts(runs["run_id"].item())
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"report.html", "tables/groups.csv", "tables/runs.csv", "figures/ranking.png", "figures/swept.png"} <= found
    assert "8 finished runs of distill in 4 groups" in (folder / "report.html").read_text()
    assert len(pd.read_csv(folder / "tables/unfinished.csv")) == 1
    # The same store, the same report; another run makes another.
    assert "already done" in filled.run("python", "-m", "labtrail.report", "--campaign", "round").stderr
    invented.fill(methods=["none"], alphas=[0.25], seeds=3, failures=0, epochs=4)
    assert filled.run("python", "-m", "labtrail.report", "--campaign", "round").returncode == 0
    assert filled.query("report").runs()["report/runs"].tolist() == [8.0, 9.0]


def test_a_report_of_nothing_is_refused_and_its_run_says_why(filled: Workspace) -> None:
    done = reported(filled, "-P", "campaign=rounds")
    assert done.returncode == 1
    line = "error: campaign 'rounds': no run to report (0 runs); campaigns: round"
    assert line in done.stderr.splitlines()
    (run,) = connection.search(filled.client(), "tags.`mlflow.project.entryPoint` = 'report'")
    assert run.info.status == "FAILED"
    assert run.data.tags[contract.STATUS_REASON] == line.replace("error", "REFUSED")


def test_a_round_is_closed_and_brought_back(filled: Workspace) -> None:
    done = filled.run("labtrail", "archive", "round", "--export", "copy.tar.gz")
    assert done.returncode == 0, done.stderr
    assert "9 runs are marked as archived" in done.stdout
    assert (filled.folder / "archive/round/report.html").is_file()
    assert filled.run("labtrail", "restore", "copy.tar.gz").stdout == "0 runs restored, 9 were there already\n"
    filled.variables["MLFLOW_TRACKING_URI"] = "sqlite:///other.db"
    assert filled.run("labtrail", "restore", "copy.tar.gz").stdout == "9 runs restored, 0 were there already\n"
    again = filled.run("labtrail", "archive", "rond")
    assert (again.returncode, again.stderr) == (2, "error: campaign 'rond': no run has it; near ones: round\n")


def test_a_digest_is_printed_and_written(filled: Workspace) -> None:
    done = filled.run("labtrail", "digest", "--since", "2023-11-01")
    assert done.returncode == 0, done.stderr
    assert "9 runs started, 8 finished, 1 failed, 0 killed; 0 still open." in done.stdout
    (page,) = (filled.folder / "digests").glob("*.html")
    assert re.search(r"<td>test/accuracy</td>", page.read_text())
    wrong = filled.run("labtrail", "digest", "--since", "soon")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_what_is_read_is_never_changed(filled: Workspace) -> None:
    before = {path: path.read_bytes() for path in filled.folder.glob("mlflow.db")}
    assert filled.run("labtrail", "digest", "--since", "2023-11-01").returncode == 0
    assert {path: path.read_bytes() for path in filled.folder.glob("mlflow.db")} == before

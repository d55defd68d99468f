"""A round is closed, copied and brought back: the same frames, the same artifacts, ids that lead to each other."""

import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from labtrail.errors import LabtrailError, QueryError
from labtrail.query.find import find_run
from labtrail.query.query import Query
from labtrail.report.archive import archive, restore
from labtrail.store import connection, contract
from tests.invented import fill


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A store with two rounds; ids of the finished runs of "beta", one of which reads a run of "alpha"."""
    settle(tmp_path / "home", monkeypatch)
    teacher = fill(methods=["logit"], alphas=[0.5], seeds=1, campaign="alpha", failures=0, epochs=2)[0]
    ids = fill(methods=["none", "logit"], alphas=[0.1, 0.5], seeds=2, campaign="beta", epochs=3)
    client = connection.current_store()
    client.set_tag(ids[0], contract.READS, teacher)
    for number, run_id in enumerate([teacher, *ids]):
        client.log_text(run_id, f"weights {number} ü", "checkpoints/best.pt")
        client.log_text(run_id, "a: 1\n", "config.yaml")
    return ids


def settle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder the one that all is run in, with a store of its own."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connection.initialise(["distill"])


def frames(campaign: str = "beta") -> tuple[pd.DataFrame, pd.DataFrame, dict[tuple[str, str], str]]:
    """Runs and history under the ids that runs first had, and the digests of artifacts."""
    query = Query("distill").campaign(campaign).ended(*contract.ANY_END)
    runs, client = query.runs(), connection.current_store()
    first = runs.get(contract.SOURCE_RUN, runs["run_id"]).fillna(runs["run_id"])
    renamed = dict(zip(runs["run_id"], first, strict=True))
    digests = {}
    for row in query.artifacts().to_dict("records"):
        path = Path(client.download_artifacts(row["run_id"], row["path"]))
        digests[renamed[row["run_id"]], row["path"]] = hashlib.sha256(path.read_bytes()).hexdigest()
    apart = ["experiment_id", contract.ARCHIVED, contract.SOURCE_RUN, contract.SYNCED, contract.READS]
    runs = runs.assign(run_id=first).drop(columns=apart, errors="ignore").sort_values("run_id", ignore_index=True)
    history = query.history()
    history = history.assign(run_id=history["run_id"].map(renamed)).sort_values(["run_id", "metric", "step"])
    return runs, history.reset_index(drop=True), digests


@pytest.mark.parametrize("target", ["copy", "copy.tar.gz"])
def test_archive_and_restore_give_the_same_frames_and_files(
    home: list[str], target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / target
    done = archive("beta", Path("archive"), copy)
    assert done.runs == 7
    runs, history, digests = frames()
    assert len(digests) == 12
    # A copy lies elsewhere by then, and the first store is gone.
    moved = copy.rename(tmp_path / f"moved-{target}")
    settle(tmp_path / "away", monkeypatch)
    assert restore(moved) == (8, 0, 0)
    again = frames()
    pd.testing.assert_frame_equal(runs, again[0])
    pd.testing.assert_frame_equal(history, again[1])
    assert digests == again[2]
    reader = Query("distill").campaign("beta").runs().set_index(contract.SOURCE_RUN).loc[home[0]]
    assert reader[contract.READS] == find_run(frames("alpha")[0]["run_id"].item(), "distill")["run_id"]
    assert restore(moved) == (0, 8, 0)


def test_a_round_that_comes_home_is_found_there(home: list[str], tmp_path: Path) -> None:
    archive("beta", Path("archive"), tmp_path / "copy")
    before = len(Query().ended(*contract.ANY_END).with_archived().rows())
    assert restore(tmp_path / "copy").copied == 0
    client = connection.current_store()
    client.delete_run(home[0])
    assert restore(tmp_path / "copy").copied == 1
    assert len(Query().ended(*contract.ANY_END).with_archived().rows()) == before


def test_a_closed_round_leaves_results_and_is_out_of_the_way(home: list[str]) -> None:
    done = archive("beta", Path("archive"))
    names = {str(path.relative_to(done.folder)) for path in done.folder.rglob("*") if path.is_file()}
    assert {"README.md", "report.html", "tables/runs.csv", "tables/groups.csv", "figures/ranking.png"} <= names
    readme = (done.folder / "README.md").read_text()
    assert "Best by test/accuracy" in readme
    assert all(one in readme for one in home)
    assert "metric train/loss: found nan" in readme
    wide = Query("distill")
    assert wide.runs()["labtrail.campaign"].tolist() == ["alpha"]
    assert wide.left_out["archived"] == 6
    assert len(Query("distill").campaign("beta").runs()) == 6
    assert len(Query().only(home).runs()) == 6
    with pytest.raises(LabtrailError, match=r"was archived on 20.*its results are in archive/beta"):
        archive("beta", Path("archive"))


def test_what_is_in_the_way_is_told_before_anything_is_written(home: list[str], tmp_path: Path) -> None:
    client = connection.current_store()
    (tmp_path / "taken").mkdir()
    for problem, arguments in (
        ("campaign 'bet': no run has it; near ones: beta", ("bet", Path("archive"))),
        ("taken: is there already", ("beta", Path("archive"), tmp_path / "taken")),
    ):
        with pytest.raises((LabtrailError, QueryError), match=problem):
            archive(*arguments)
    client.delete_tag(home[0], contract.ENDED)
    client.update_run(home[0], status="RUNNING")
    with pytest.raises(LabtrailError, match=f"1 runs have not ended, the first is none-a0.1-s0 .{home[0]}"):
        archive("beta", Path("archive"))
    assert not Path("archive").exists()
    assert not any(contract.ARCHIVED in run.tags for run in Query().ended(*contract.ANY_END).with_archived().rows())


def test_a_damaged_or_foreign_copy_is_refused(home: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    archive("beta", Path("archive"), copy)
    settle(tmp_path / "away", monkeypatch)
    one = next(copy.rglob("best.pt"))
    content = one.read_bytes()
    one.write_bytes(content + b"!")
    with pytest.raises(LabtrailError, match=r"best\.pt is damaged, missing or foreign; nothing was restored"):
        restore(copy)
    one.write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(LabtrailError, match="its format is 99, this version reads 1"):
        restore(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(LabtrailError, match="is not an export of a round"):
        restore(copy)
    with pytest.raises(LabtrailError, match="there is no such file or folder"):
        restore(tmp_path / "nothing")
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(LabtrailError, match="cannot be unpacked"):
        restore(tmp_path / "text.tar.gz")
    assert Query().ended(*contract.ANY_END).rows() == []


def test_a_copy_does_not_lie_in_the_results(home: list[str]) -> None:
    for wrong in ("archive", "archive/beta", "archive/beta/copy", "archive/beta/copy.tar.gz"):
        with pytest.raises(LabtrailError, match="lies in archive/beta, or around it"):
            archive("beta", Path("archive"), Path(wrong))
    assert not Path("archive").exists()


def test_what_was_interrupted_is_finished(home: list[str]) -> None:
    archive("beta", Path("archive"))
    connection.current_store().delete_tag(home[0], contract.ARCHIVED)
    assert archive("beta", Path("archive")).runs == 1
    assert contract.ARCHIVED in connection.current_store().get_run(home[0]).data.tags


def test_the_query_that_the_readme_names_finds_the_runs(home: list[str]) -> None:
    text = (archive("beta", Path("archive")).folder / "README.md").read_text()
    assert "`Query().campaign('beta')`" in text
    assert sorted(Query().campaign("beta").runs()["run_id"]) == sorted(home)


def test_a_round_in_which_nothing_finished_can_be_closed(home: list[str]) -> None:
    fill(methods=[], failures=2, campaign="gamma")
    done = archive("gamma", Path("archive"), Path("copy"))
    assert (done.runs, "None of its 2 runs has finished" in (done.folder / "README.md").read_text()) == (2, True)


@pytest.mark.parametrize("name", ["a/b", "..", "/tmp/escaped"])
def test_a_name_that_is_no_folder_is_refused(home: list[str], name: str) -> None:
    fill(methods=["none"], alphas=[0.1], seeds=1, failures=0, campaign=name, epochs=2)
    with pytest.raises(LabtrailError, match="is not a name of a folder"):
        archive(name, Path("archive"))


def test_artifacts_come_from_the_copy_alone(home: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    archive("beta", Path("archive"), copy)
    (tmp_path / "private").mkdir()
    (tmp_path / "private/key").write_text("secret")
    with sqlite3.connect(copy / "mlflow.db") as database:
        database.execute("UPDATE runs SET artifact_uri = ?", (str(tmp_path / "private"),))
    database.close()
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["sha256"]["mlflow.db"] = hashlib.sha256((copy / "mlflow.db").read_bytes()).hexdigest()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    settle(tmp_path / "away", monkeypatch)
    with pytest.raises(LabtrailError, match="has its artifacts elsewhere; nothing was restored"):
        restore(copy)
    assert Query().ended(*contract.ANY_END).with_archived().rows() == []


def test_foreign_files_and_links_are_refused(home: list[str], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    archive("beta", Path("archive"), copy)
    (copy / "more.txt").write_text("more")
    with pytest.raises(LabtrailError, match=r"more\.txt is damaged, missing or foreign"):
        restore(copy)
    (copy / "more.txt").unlink()
    one = next(copy.rglob("best.pt"))
    (tmp_path / "same").write_bytes(one.read_bytes())
    one.unlink()
    one.symlink_to(tmp_path / "same")
    with pytest.raises(LabtrailError, match=r"best\.pt is damaged, missing or foreign"):
        restore(copy)


@pytest.mark.parametrize("name", ["../outside", "{tmp}/outside"])
def test_names_that_lead_out_of_an_archive_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as file:
        member = tarfile.TarInfo(name.format(tmp=tmp_path))
        member.size = 3
        file.addfile(member, io.BytesIO(b"bad"))
    with pytest.raises(LabtrailError, match=r"cannot be unpacked|is not an export"):
        restore(tmp_path / "evil.tar.gz")
    assert [path.name for path in tmp_path.rglob("outside")] == []

"""The verdict over the end notes of several ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labtrail.running.rank_reports import RankReports, Verdict


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labtrail.running.rank_reports._PATIENCE_S", 0.1)


# What a rank falls back to.
OWN = Verdict("KILLED", "SIGTERM")


def vanish(folder: Path, rank: int) -> None:
    """Makes the rank's open note that of a process that is gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = folder / f"rank_{rank}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": gone.pid}))


def pair(folder: Path) -> tuple[RankReports, RankReports]:
    return RankReports(folder, 0, 2), RankReports(folder, 1, 2)


def test_one_rank_needs_no_rank_in_its_reason(tmp_path: Path) -> None:
    peers = RankReports(tmp_path, 0, 1)
    peers.report_end("FAILED", "ValueError: x")
    assert peers.verdict(OWN) == Verdict("FAILED", "ValueError: x")


def test_cause_wins_over_consequence_whatever_the_order(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    zero.report_end("FAILED", "RuntimeError: Connection closed by peer", consequence=True)
    one.report_end("FAILED", "ValueError: bad row")
    assert zero.verdict(OWN) == Verdict("FAILED", "rank 1: ValueError: bad row")


def test_earlier_cause_wins(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    one.report_end("FAILED", "ValueError: first")
    zero.report_end("FAILED", "ValueError: second")
    assert zero.verdict(OWN).reason == "rank 1: ValueError: first"


def test_own_error_is_not_blamed_on_a_rank_that_still_waits(tmp_path: Path) -> None:
    zero, _ = pair(tmp_path)
    zero.report_end("FAILED", "ValueError: mine")
    assert zero.verdict(OWN) == Verdict("FAILED", "rank 0: ValueError: mine")


def test_vanished_rank_explains_a_signal(tmp_path: Path) -> None:
    zero, _ = pair(tmp_path)
    vanish(tmp_path, 1)
    zero.report_end("KILLED", "SIGTERM")
    assert zero.verdict(OWN) == Verdict("FAILED", "rank 1 vanished (killed, or out of memory)")


def test_rank_that_ended_well_has_not_vanished(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    one.report_end("FINISHED", "")
    assert zero.verdict(OWN) == OWN


def test_lowest_survivor_is_closes_run(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    assert zero.closes_run()
    assert not one.closes_run()
    vanish(tmp_path, 0)
    assert one.closes_run()


def test_silent_rank_is_suspected(tmp_path: Path) -> None:
    zero, _ = pair(tmp_path)
    zero.report_end("FAILED", "RuntimeError: Timed out", consequence=True)
    assert zero.verdict(OWN).reason == "rank 1 gave no sign; rank 0: RuntimeError: Timed out"


def test_rank_that_hung_until_it_was_stopped_is_suspected(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    one.report_end("FAILED", "RuntimeError: Timed out", consequence=True)
    zero.report_end("KILLED", "SIGTERM")
    assert zero.verdict(OWN) == Verdict("FAILED", "rank 0 gave no sign; rank 1: RuntimeError: Timed out")


def test_stop_of_one_rank_is_a_stop(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    zero.report_end("KILLED", "SIGTERM")
    one.report_end("FAILED", "RuntimeError: Connection closed by peer", consequence=True)
    assert zero.verdict(OWN) == Verdict("KILLED", "rank 0: SIGTERM")


def test_stop_of_all_is_a_stop(tmp_path: Path) -> None:
    zero, one = pair(tmp_path)
    one.report_end("KILLED", "SIGTERM")
    zero.report_end("KILLED", "SIGTERM")
    assert zero.verdict(OWN) == Verdict("KILLED", "SIGTERM")
    zero.clear()
    assert not tmp_path.exists()

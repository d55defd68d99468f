"""The story of some days: what ran, what failed, what got better, which figures are new, which commits were made."""

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from labtrail.errors import ConfigError
from labtrail.report.digest import moment_of, write_digest
from labtrail.store import connection, contract
from tests.invented import fill

# Invented runs start then, and end a minute and a half later.
START = datetime.fromtimestamp(1_700_000_000, UTC)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def story(since: datetime, now: datetime) -> tuple[str, list[Path]]:
    return write_digest(since, now, Path("digests"))


def git(*words: str, when: datetime) -> None:
    dates = {"GIT_AUTHOR_DATE": when.isoformat(), "GIT_COMMITTER_DATE": when.isoformat(), "HOME": "."}
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(["git", *words], env={**dates, **names, "PATH": "/usr/bin:/bin"}, check=True, capture_output=True)


def test_the_story_of_a_week() -> None:
    ids = fill(methods=["none", "logit"], alphas=[0.5], seeds=2, failures=1, epochs=2)
    client = connection.current_store()
    client.log_text(ids[0], "png", "figures/curves.png")
    git("init", when=START)
    for name, days in (("old", -30), ("new", 0)):
        git("commit", "--allow-empty", "-m", f"A {name} change", when=START + timedelta(days=days))
    text, files = story(START - timedelta(days=7), START + timedelta(hours=1))
    assert "5 runs started, 4 finished, 1 failed, 0 killed; 0 still open." in text
    assert re.search(r"\| distill \| round \| 5 \| 4 \| 1 \| 0 \| 0 \| 0\.125 \|", text)
    assert "FAILED: MetricError: metric train/loss: found nan" in text
    assert re.search(r"\| test/accuracy \| none \| 0\.\d+ new \|", text)
    assert f"[curves.png](http://127.0.0.1:5000/#/experiments/1/runs/{ids[0]}/artifacts/figures/curves.png)" in text
    assert "A new change" in text
    assert "A old change" not in text
    assert [path.name for path in files] == ["digest-2023-11-14.md", "digest-2023-11-14.html"]
    assert files[0].read_text() == f"{text}\n"
    assert "A new change" in files[1].read_text()


def test_best_so_far_against_before() -> None:
    fill(methods=["none"], alphas=[0.1], seeds=1, failures=0, epochs=2)
    fill(methods=["attention"], alphas=[0.5], seeds=1, failures=0, epochs=2, campaign="later")
    client = connection.current_store()
    newer = connection.search(client, f"tags.`{contract.CAMPAIGN}` = 'later'")[0]
    week = 7 * 24 * 3600 * 1000
    client.update_run(newer.info.run_id, status="RUNNING")
    client.set_terminated(newer.info.run_id, "FINISHED", end_time=(newer.info.end_time or 0) + week)
    text, _ = story(START + timedelta(days=1), START + timedelta(days=8))
    found = re.search(r"\| test/accuracy \| (0\.\d+) \| (0\.\d+) new \| \[attention", text)
    assert found is not None
    assert float(found[1]) < float(found[2]) == pytest.approx(newer.data.metrics["test/accuracy"], abs=1e-4)
    assert "## What did not finish" not in text
    assert "None, or this is not a git checkout" in text


def test_what_is_no_result_is_never_the_best() -> None:
    (run_id,) = fill(methods=["none"], alphas=[0.1], seeds=1, failures=0, epochs=2)
    client = connection.current_store()
    client.set_tag(run_id, contract.TASK, "counting")
    client.set_tag(run_id, contract.SCORE, "")
    bare = client.create_run("1", start_time=1_700_000_000_000, tags={contract.TASK: "sizes"}).info.run_id
    client.log_metric(bare, "profile/bytes", 7)
    client.set_terminated(bare, "FINISHED", end_time=1_700_000_010_000)
    text, _ = story(START - timedelta(days=7), START + timedelta(hours=1))
    assert "| sizes |  | 1 | 1 |" in text
    assert "profile/bytes" not in text
    assert "| counting |" in text.partition("## Best so far")[2]


def test_a_quiet_week_and_an_empty_store() -> None:
    text, _ = story(START, START + timedelta(days=1))
    assert "0 runs started, 0 finished, 0 failed, 0 killed; 0 still open." in text


@pytest.mark.parametrize(
    ("text", "back"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12)), ("2w", timedelta(weeks=2))]
)
def test_spans(text: str, back: timedelta) -> None:
    assert moment_of(text, START) == START - back


def test_days() -> None:
    assert moment_of("2023-11-01", START) == datetime(2023, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "problem"), [("7", "expected 12h, 7d"), ("week", "expected 12h, 7d"), ("2030-01-01", "in the future")]
)
def test_a_span_that_is_none(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        moment_of(text, START)

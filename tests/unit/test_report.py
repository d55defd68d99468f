"""A report tells what the store has: groups, figures with their runs, failures; sane with few runs and with many."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from labtrail import links, store
from labtrail.errors import QueryError
from labtrail.report.build import Report, build
from labtrail.report.config import ReportConfig
from labtrail.report.gather import gather
from labtrail.report.pictures import best_last_table, pictures
from tests.invented import fill


@pytest.fixture(scope="module", autouse=True)
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    folder: Path = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
        few = fill(methods=["logit"], alphas=[0.5], seeds=3, campaign="few", failures=0, epochs=4)
        yield {"round": fill(), "few": few, "failed": fill(methods=[], failures=2, campaign="failed")}


@pytest.fixture(scope="module")
def report(filled: dict[str, list[str]]) -> Report:
    return build(ReportConfig(campaign="round"))


def test_groups_are_ranked_and_their_means_are_those_of_the_runs(report: Report) -> None:
    groups, runs = report.tables["tables/groups.csv"], report.tables["tables/runs.csv"]
    assert report.metrics == {
        "report/runs": 33.0, "report/unfinished": 1.0, "report/groups": 11.0,
        "report/best_mean": pytest.approx(groups["mean"].iloc[0]),
    }  # fmt: skip
    ranked = groups[groups["metric"] == "test/accuracy"]
    assert ranked["mean"].is_monotonic_decreasing
    assert ranked["group"].iloc[0] == "attention, alpha=0.5"
    own = runs[(runs["cfg.method"] == "attention") & (runs["cfg.alpha"] == "0.5")]
    assert ranked["mean"].iloc[0] == pytest.approx(own["test/accuracy"].mean())
    assert set(ranked["run_ids"].iloc[0].split()) == set(own["run_id"])


def test_the_page_says_what_was_run_and_what_failed(report: Report) -> None:
    words = re.sub(r"<[^>]+>", " ", report.html)
    for text in (
        "33 finished runs of distill in 11 groups", "metric train/loss: found nan", "cpu (invented)",
        "attention, alpha=0.5", "train.epochs", "Differences from attention, alpha=0.5",
    ):  # fmt: skip
        assert text in words, text
    assert "Left out" not in words
    assert re.search(r"Best by test/accuracy \(larger is better\): attention, alpha=0.5, 0\.\d+ \[0\.\d+, 0\.", words)


def test_a_page_needs_no_network(report: Report) -> None:
    loaded = re.findall(r'(?:src|href)="([^"]+)"', report.html)
    assert all(one.startswith(("data:", "#", links.base())) for one in loaded)
    assert "<script src" not in report.html


def test_every_figure_names_its_runs_and_leads_to_exactly_them(report: Report, filled: dict[str, list[str]]) -> None:
    figures = re.findall(r"<figure>.*?</figure>", report.html, flags=re.S)
    assert len(figures) == len(report.figures) == 6
    for figure in figures:
        link = re.search(r'<a href="([^"]+)"', figure)
        code = re.search(r"<code>([^<]+)</code>", figure)
        assert link is not None
        assert code is not None
        behind = set(code[1].split())
        assert set(re.findall(r"[0-9a-f]{32}", unquote(link[1]))) == behind
        assert behind <= set(filled["round"])
        assert re.search(r'<img src="data:image/svg[^"]+" alt="[^"]{40,}"', figure)


def test_what_is_drawn_is_what_there_is() -> None:
    found = gather(ReportConfig(campaign="round"))
    made = {one.name: one for one in pictures(found)}
    assert list(made) == ["ranking", "swept", "curves", "heat", "best_and_last", "cost"]
    assert len(made["swept"].run_ids) == 30
    heat = made["heat"].figure.axes[0].images[0].get_array()
    assert heat is not None
    assert heat.shape == (3, 5)
    own = found.runs[(found.runs["cfg.method"] == "attention") & (found.runs["cfg.alpha"] == "0.9")]
    assert float(heat[0, 4]) == pytest.approx(own["test/accuracy"].mean())
    table = best_last_table(found)
    history = found.curves[found.curves["metric"] == "validation/accuracy"]
    for row in table.to_dict("records"):
        points = history[history["run_id"] == row["run_id"]].set_index("step")["value"]
        assert row["best"] == points.max()
        assert row["best_epoch"] == points.idxmax()
        assert row["last"] == points.loc[11]


def test_three_runs_are_a_report_too() -> None:
    made = build(ReportConfig(campaign="few"))
    assert set(made.figures) == {f"figures/{name}.png" for name in ("ranking", "curves", "best_and_last", "cost")}
    assert made.tables["tables/paired_differences.csv"].empty
    assert made.metrics["report/groups"] == 1
    assert "all" in made.summary


def test_a_run_without_repeats_says_that_it_says_nothing() -> None:
    made = build(ReportConfig(campaign="few", group=("seed",)))
    assert made.metrics["report/groups"] == 3
    assert "from a single run, which says nothing about chance" in made.summary
    assert np.isnan(made.tables["tables/groups.csv"]["low"]).all()


def test_three_hundred_runs_stay_legible() -> None:
    fill(methods=["logit"], alphas=[number / 100 for number in range(100)], seeds=3, campaign="many", epochs=2)
    made = build(ReportConfig(campaign="many"))
    assert made.metrics["report/runs"] == 300
    for figure in made.figures.values():
        width, height = figure.get_size_inches()
        assert height < 14
        assert width < 20
    assert "The best 40 of 100 groups" in made.html
    assert len(made.tables["tables/groups.csv"]["group"].unique()) == 100
    assert len(made.html) < 5_000_000
    # Too many for the comparison: a filtered list of exactly these.
    assert "searchFilter=attributes.run_id" in made.html


def test_what_differs_with_every_seed_makes_no_groups() -> None:
    client = store.connect()
    for number, run_id in enumerate(fill(methods=["logit"], alphas=[0.5], seeds=3, campaign="digests", failures=0)):
        client.log_param(run_id, "cfg.teacher", f"{number:032x}")
        client.log_param(run_id, "cfg.teacher_sha256", f"{number:064x}")
    assert gather(ReportConfig(campaign="digests")).names == ["all"]


def test_a_metric_that_shrinks_is_ranked_upwards() -> None:
    groups = gather(ReportConfig(campaign="round", metric="validation/loss")).groups
    assert groups[groups["metric"] == "validation/loss"]["mean"].is_monotonic_increasing


def test_what_was_run_again_counts_once() -> None:
    fill(methods=["logit"], alphas=[0.5], seeds=3, campaign="few", failures=0, epochs=4)
    found = gather(ReportConfig(campaign="few"))
    assert len(found.runs) == 3
    assert found.left_out.startswith("3 earlier repeats")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, r"which runs\? name a campaign or a task; campaigns: failed, few, .*round"),
        ({"campaign": "rounds"}, "campaign 'rounds': no run has this; campaigns: .*round"),
        ({"campaign": "failed"}, r"none of 2 runs has finished \(2 failed\)"),
        (
            {"campaign": "round", "metric": "test/acuracy"},
            "metric 'test/acuracy': no run has it; near ones: test/accuracy",
        ),
        ({"campaign": "round", "group": ("metod",)}, "config key 'metod': no run has it; near ones: method"),
        ({"campaign": "round", "curves": ("validation/los",)}, "metric 'validation/los': .*validation/loss"),
        ({"campaign": "round", "against": "atention, alpha=0.5"}, "group 'atention.*near ones: attention, alpha=0.5"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(values: dict, problem: str) -> None:
    with pytest.raises(QueryError, match=problem) as caught:
        build(ReportConfig(**values))
    assert "\n" not in str(caught.value)


def test_runs_that_were_made_by_hand_or_died_at_birth_are_left_out(filled: dict[str, list[str]]) -> None:
    client = store.connect()
    client.create_run("1", tags={"labtrail.campaign": "few"})
    found = gather(ReportConfig(campaign="few"))
    assert "1 not of labtrail" in found.left_out
    assert len(found.runs) == 3
    assert isinstance(found.runs, pd.DataFrame)

"""A report tells what the store has: groups, figures with their runs, failures; sane with few runs and with many."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from labtrail.config import load_config
from labtrail.errors import QueryError
from labtrail.report.build import Report, build
from labtrail.report.config import ReportConfig
from labtrail.report.gather import gather
from labtrail.report.pictures import best_last_table, pictures
from labtrail.store import connection, contract, ui_links
from tests.invented import fill
from tests.workspace import REPOSITORY


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
        "report/runs": 33.0,
        "report/unfinished": 1.0,
        "report/groups": 11.0,
        "report/best_mean": pytest.approx(groups["mean"].iloc[0]),
    }
    ranked = groups[groups["metric"] == "test/accuracy"]
    assert ranked["mean"].is_monotonic_decreasing
    assert ranked["group"].iloc[0] == "attention, alpha=0.5"
    own = runs[(runs["cfg.method"] == "attention") & (runs["cfg.alpha"] == "0.5")]
    assert ranked["mean"].iloc[0] == pytest.approx(own["test/accuracy"].mean())
    assert set(ranked["run_ids"].iloc[0].split()) == set(own["run_id"])


def test_the_page_says_what_was_run_and_what_failed(report: Report) -> None:
    words = re.sub(r"<[^>]+>", " ", report.html)
    for text in (
        "33 finished runs of distill in 11 groups",
        "metric train/loss: found nan",
        "cpu (invented)",
        "attention, alpha=0.5",
        "train.epochs",
        "Differences from attention, alpha=0.5",
    ):
        assert text in words, text
    assert "Left out" not in words
    assert re.search(r"Best by test/accuracy \(larger is better\): attention, alpha=0.5, 0\.\d+ \[0\.\d+, 0\.", words)


def test_a_page_needs_no_network(report: Report) -> None:
    loaded = re.findall(r'(?:src|href)="([^"]+)"', report.html)
    assert all(one.startswith(("data:", "#", ui_links.base())) for one in loaded)
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
    made = {picture.name: picture for picture in pictures(found)}
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


@pytest.mark.slow
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
    client = connection.current_store()
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
        ({}, r"which runs\? name a campaign or a task; campaigns: .*failed, few, .*round"),
        ({"campaign": "rounds"}, r"campaign 'rounds': no run to report \(0 runs\); campaigns: .*round"),
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


def test_runs_that_were_made_by_hand_or_died_at_birth_are_left_out() -> None:
    connection.current_store().create_run("1", tags={contract.CAMPAIGN: "few"})
    found = gather(ReportConfig(campaign="few"))
    assert "1 not of labtrail" in found.left_out
    assert len(found.runs) == 3


def sparse(campaign: str, **settings: list[str]) -> None:
    """Finished runs with nothing but a task, a campaign, one metric and these params; "" leaves one out."""
    client = connection.current_store()
    for number in range(max(map(len, settings.values()))):
        tags = {contract.TASK: "sparse", contract.CAMPAIGN: campaign}
        run_id = client.create_run("1", tags=tags, run_name=f"run-{number}").info.run_id
        for key, values in settings.items():
            if values[number]:
                client.log_param(run_id, f"cfg.{key}", values[number])
        client.log_metric(run_id, "test/accuracy", 0.5 + 0.01 * number)
        client.set_terminated(run_id)


def test_runs_without_key_seed_or_score_are_reported_all() -> None:
    sparse("keyless", method=["a", "a", "b", "b"])
    made = build(ReportConfig(campaign="keyless"))
    assert made.metrics["report/runs"] == 4
    assert made.tables["tables/paired_differences.csv"].empty


def test_a_setting_that_some_runs_lack_is_a_setting_of_its_own() -> None:
    sparse("gaps", method=["none", "logit", "logit", "logit"], alpha=["", "0.1", "0.5", "0.9"], seed=["0"] * 4)
    found = gather(ReportConfig(campaign="gaps"))
    assert sorted(found.names) == ["logit, alpha=0.1", "logit, alpha=0.5", "logit, alpha=0.9", "none, alpha=not set"]
    made = build(ReportConfig(campaign="gaps"))
    assert "figures/swept.png" in made.figures
    assert made.html.count("alpha") > 3


def test_two_teachers_and_two_tasks_are_not_repeats() -> None:
    teachers = [f"{number:032x}" for number in (1, 1, 2, 2)]
    sparse("teachers", teacher=teachers, seed=["0", "1", "0", "1"])
    assert len(gather(ReportConfig(campaign="teachers")).names) == 2
    sparse("tasks", seed=["0", "0"])
    client = connection.current_store()
    one = connection.search(client, "tags.`labtrail.campaign` = 'tasks'")[0].info.run_id
    client.set_tag(one, contract.TASK, "other")
    assert sorted(gather(ReportConfig(campaign="tasks")).names) == ["other", "sparse"]


def test_runs_that_differ_in_more_than_their_group_are_told() -> None:
    found = gather(ReportConfig(campaign="round", group=("method",)))
    assert found.pooled == ["alpha"]
    made = build(ReportConfig(campaign="round", group=("method",)))
    assert "Runs of a group differ in alpha: intervals are not those of repeats." in made.summary
    assert "t intervals over runs that differ in alpha" in made.html


def test_only_a_group_that_was_chosen_beforehand_is_tested_against(report: Report) -> None:
    assert "Holm" not in report.summary
    assert "best of all by chance, too" in report.html
    chosen = build(ReportConfig(campaign="round", against="none, alpha=0.1"))
    assert re.search(
        r"\d+ of 10 groups that can be tested differ from none, alpha=0\.1 over paired seeds", chosen.summary
    )
    assert "best of all by chance, too" not in chosen.html


def test_curves_end_where_some_runs_have_stopped() -> None:
    ids = fill(methods=["logit"], alphas=[0.5], seeds=2, campaign="stopped", failures=0, epochs=4)
    client = connection.current_store()
    for step in range(4, 8):
        client.log_metric(ids[0], "validation/accuracy", 0.9, step=step)
    made = {picture.name: picture for picture in pictures(gather(ReportConfig(campaign="stopped")))}
    drawn = next(axis for axis in made["curves"].figure.axes if axis.get_ylabel() == "validation/accuracy")
    assert max(np.asarray(drawn.lines[0].get_xdata(), float)) == 3


def test_intervals_that_leave_the_axis_are_marked() -> None:
    found = gather(ReportConfig(campaign="few", group=("method",)))
    axis = pictures(found)[0].figure.axes[0]
    low, high = axis.get_xlim()
    row = found.groups.iloc[0]
    assert row["low"] < low
    assert row["high"] > high
    assert [line.get_marker() for line in axis.lines if line.get_marker() in ("<", ">")] == ["<", ">"]


def test_values_that_are_no_numbers_do_not_stop_a_report() -> None:
    ids = fill(methods=["logit"], alphas=[0.5], seeds=2, campaign="odd", failures=0, epochs=3)
    client = connection.current_store()
    for run_id in ids:
        for step in range(3, 6):
            client.log_metric(run_id, "validation/accuracy", float("nan"), step=step)
    assert build(ReportConfig(campaign="odd")).metrics["report/runs"] == 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([("group", "method,alpha")], {"group": ("method", "alpha")}),
        ([("curves", "train/loss")], {"curves": ("train/loss",)}),
        ([("campaign", "7")], {"campaign": "7"}),
        ([("campaign", "2024-01-01")], {"campaign": "2024-01-01"}),
    ],
)
def test_options_as_people_write_them(options: list[tuple[str, str]], expected: dict) -> None:
    config = load_config(ReportConfig, REPOSITORY / "configs/report/default.yaml", options)
    assert {key: getattr(config, key) for key in expected} == expected


def test_addresses_are_shown_without_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:8443/x")
    assert ui_links.base() == "https://host:8443/x"
    assert ui_links.without_secrets("postgresql://me:secret@host/db") == "postgresql://host/db"
    assert ui_links.without_secrets("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"

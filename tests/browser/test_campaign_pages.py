"""A digits campaign in the MLflow UI, by the links that are printed; and its report, which is accessible."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import browser_page, needs_chromium
from tests.cluster.private_slurm import answers, free_port
from tests.workspace import Workspace, wait_until

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
pytestmark = [pytest.mark.browser, needs_chromium]

_QUICK = (Path(__file__).parents[1] / "cluster/quick.yaml").read_text()
_ROUND = """
name: sweep
task: distill
groups:
  - {name: teachers, config: quick.yaml}
  - name: students
    config: quick.yaml
    values: {method: logit}
    reads: {teacher: teachers}
    grid: {alpha: [0.25, 0.5, 0.75]}
"""
_PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, dict[str, str]]]:
    """A finished campaign with its report, and what ``labtrail ui`` prints: words -> link."""
    workspace = Workspace(tmp_path_factory.mktemp("pages"))
    workspace.write("quick.yaml", _QUICK)
    workspace.write("round.yaml", _ROUND)
    done = workspace.run("python", "-m", "projects.campaign", "--config", "round.yaml", "--workers", "2")
    assert done.returncode == 0, done.stderr
    made = workspace.run("python", "-m", "labtrail.report", "--campaign", "sweep")
    assert made.returncode == 0, made.stderr
    port = free_port()
    with workspace.started("labtrail", "ui", "--port", str(port), stdout="ui.log"):
        log = workspace.folder / "ui.log"
        wait_until(lambda: answers(port))
        lines = [line.split(maxsplit=2) for line in log.read_text().splitlines() if "/#/" in line]
        yield workspace, {f"{name}: {words}": link for name, link, words in lines}


def _shows(page, *texts: str) -> None:
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=_PATIENCE_MS)


def test_the_run_list_and_the_notes_beside_it(place: tuple[Workspace, dict[str, str]]) -> None:
    link = place[1]["distill: all runs as charts"].partition("?")[0]
    with browser_page(width=1500, height=900) as page:
        page.goto(link)
        _shows(page, "logit-a0.25", "logit-a0.75", "campaign-sweep", "Where to look")
        assert page.get_by_role("link", name="campaign-sweep").count() == 1


def test_the_chart_link_shows_the_campaign_and_nothing_else(place: tuple[Workspace, dict[str, str]]) -> None:
    with browser_page(width=1500, height=900) as page:
        page.goto(place[1]["distill: campaign sweep as charts"])
        _shows(page, "logit-a0.5", "validation/accuracy")
        assert page.get_by_text("campaign-sweep").count() == 0


def test_the_compare_link_has_alpha_on_its_axis(place: tuple[Workspace, dict[str, str]]) -> None:
    (link,) = [link for words, link in place[1].items() if "the best run of each of its" in words]
    with browser_page(width=1500, height=1000) as page:
        page.goto(link)
        _shows(page, "Comparing 4 Runs", "cfg.alpha")
        page.locator(".js-plotly-plot").first.wait_for(timeout=_PATIENCE_MS)
        axes = page.locator(".js-plotly-plot .axis-title").all_text_contents()
        assert "cfg.alpha" in axes


def test_the_report_is_rendered_in_the_artifact_pane(place: tuple[Workspace, dict[str, str]]) -> None:
    workspace, links = place
    run_id = workspace.query("report").runs()["run_id"].item()
    base = links["report: all runs as charts"].partition("?")[0]
    with browser_page(width=1500, height=1000) as page:
        page.goto(f"{base}/{run_id}/artifacts/report.html")
        frame = page.frame_locator("iframe").first
        frame.get_by_role("heading", name="sweep: 4 runs").wait_for(timeout=_PATIENCE_MS)
        image = frame.get_by_role("img").first
        image.wait_for(timeout=_PATIENCE_MS)
        assert image.evaluate("image => image.complete && image.naturalWidth > 100")


@pytest.fixture
def report(place: tuple[Workspace, dict[str, str]]) -> Iterator:
    """The report's file, opened without any network."""
    workspace = place[0]
    path = workspace.artifacts(workspace.query("report").runs()["run_id"].item()) / "report.html"
    with browser_page(width=1200, height=900) as page:
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda one: problems.append(one.url) if one.url.startswith("http") else None)
        page.context.set_offline(True)
        page.goto(f"file://{path}")
        page.wait_for_selector("body[data-ready]")
        yield page
        assert problems == []


def test_the_report_passes_the_accessibility_check(report) -> None:
    found = axe.Axe().run(report)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 15


def test_tables_are_sorted_by_their_headings(report) -> None:
    table = report.locator("table[data-sortable]").first
    heading = table.get_by_role("button", name="test/accuracy", exact=True)
    column = heading.evaluate("button => button.parentElement.cellIndex")

    def values() -> list[float]:
        cells = table.locator(f"tbody tr > :nth-child({column + 1})").all_inner_texts()
        return [float(text.split()[0]) for text in cells]

    heading.press("Enter")
    assert values() == sorted(values())
    heading.press("Enter")
    assert values() == sorted(values(), reverse=True)
    assert heading.evaluate("button => button.parentElement.getAttribute('aria-sort')") == "descending"


def test_on_paper_all_of_a_wide_table_is_there(report) -> None:
    report.emulate_media(media="print")
    report.set_viewport_size({"width": 794, "height": 1123})
    assert report.locator("nav").is_hidden()
    assert report.locator("details").first.is_hidden()
    assert report.locator("figure img").first.is_visible()
    assert len(report.pdf(format="A4")) > 10_000

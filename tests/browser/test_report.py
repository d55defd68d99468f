"""The profiler's page in a real browser: pointer, keyboard, zoom, sorting and filtering, without any network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from labtrail.stepgraph.trace import trace
from projects.profiler.profile import GraphProfiler, Profile
from projects.profiler.report import write_report
from projects.profiler.swap import Bandwidth
from projects.profiler.tables import size
from tests.browser.chromium import browser_page, needs_chromium
from tests.unit.profiler.steps import SMALL, miniature

pytestmark = [pytest.mark.browser, needs_chromium]


def profiled(batch: int) -> Profile:
    step = miniature("tiny", SMALL._replace(batch=batch))
    step.take()
    profiler = GraphProfiler(trace(step), step)
    profiler.run(1)
    profiler.measure_memory()
    return profiler.aggregate(Bandwidth(1e10, 1e10))


@pytest.fixture(scope="module")
def profiles() -> dict[int, Profile]:
    return {batch: profiled(batch) for batch in (2, 4)}


@pytest.fixture
def page(profiles: dict[int, Profile], tmp_path: Path) -> Iterator:
    (tmp_path / "report.html").write_text(write_report("A step", "about", 1e6, profiles, ["small", "large"]))
    with browser_page(width=1300, height=900) as page:
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.append(request.url) if "file:" not in request.url else None)
        page.goto(f"file://{tmp_path}/report.html")
        page.wait_for_selector("body[data-ready]")
        yield page
        assert problems == []


def reading(page) -> str:
    return page.locator("#reading").inner_text()


def test_the_peak_is_shown_first_and_keys_walk_from_it(page, profiles: dict[int, Profile]) -> None:
    large = profiles[4]
    assert f"node {large.peak_node}:" in reading(page)
    assert size(large.peak_bytes) in reading(page)
    page.locator("#timeline").focus()
    page.keyboard.press("ArrowRight")
    assert f"node {large.peak_node + 1}:" in reading(page)
    page.keyboard.press("p")
    assert f"node {large.peak_node}:" in reading(page)


def test_another_batch_size_is_another_step(page, profiles: dict[int, Profile]) -> None:
    page.select_option("#batch", label="2")
    assert size(profiles[2].peak_bytes) in reading(page)
    assert "small" in page.locator("#facts").inner_text()


def test_pointing_reads_and_dragging_zooms(page) -> None:
    box = page.locator("#timeline").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    first = reading(page)
    page.mouse.move(box["x"] + 600, box["y"] + 100)
    assert reading(page) != first
    page.mouse.down()
    page.mouse.move(box["x"] + 800, box["y"] + 100, steps=4)
    page.mouse.up()
    low, high = page.evaluate("[state.low, state.high]")
    assert high - low < page.evaluate("totals().length - 1 - current().first")
    page.get_by_role("button", name="whole step").click()
    assert page.evaluate("state.low === current().first")


def test_tables_sort_and_filter_and_lead_to_nodes(page, profiles: dict[int, Profile]) -> None:
    rows = page.locator("#body tr")
    slowest = profiles[4].node_stats().nlargest(1, "run_time_s").iloc[0]
    assert rows.first.locator("td").first.inner_text() == str(slowest["id"])
    page.fill("#filter", "bernoulli")
    assert rows.count() == 1
    rows.first.click()
    assert "aten.bernoulli_.float" in reading(page)
    page.fill("#filter", "")
    page.select_option("#which", "activations")
    assert page.locator("#count").inner_text() == f"{len(profiles[4].activations)} activations"
    page.get_by_role("button", name="created rank").click()
    page.get_by_role("button", name="created rank").click()
    ranks = [int(text) for text in page.locator("#body tr td:nth-child(8)").all_inner_texts()]
    assert ranks == sorted(ranks)
    page.select_option("#which", "modules")
    assert rows.count() > 3

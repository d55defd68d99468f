"""The page in a real browser: slider, pointer and keyboard change what is drawn, without any network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from projects.spoter.interpret.viewer import write_viewer
from tests.browser.chromium import browser_page, needs_chromium
from tests.unit.spoter.study import memory_study

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    folder: Path = tmp_path_factory.mktemp("viewer")
    (folder / "viewer.html").write_text(write_viewer(memory_study(folder)))
    with browser_page(width=1400, height=900) as page:
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.context.set_offline(True)
        page.goto(f"file://{folder / 'viewer.html'}")
        page.wait_for_selector("body[data-ready]")
        yield page
        assert problems == []


def grid(page) -> str:
    """The heat map as it is drawn: its picture's data."""
    return page.locator("#grid .hm image").first.get_attribute("href")


def pose(page) -> str:
    return page.evaluate("document.getElementById('pose').toDataURL()")


def slide(page, name: str, value: int) -> None:
    page.locator(f"#{name}").fill(str(value))


def changed_by(page, read, act) -> bool:
    before = read(page)
    act()
    page.wait_for_timeout(300)
    return read(page) != before


def test_epoch_slider_changes_the_maps(page) -> None:
    assert changed_by(page, grid, lambda: slide(page, "epoch", 0))
    assert "epoch 1" in page.locator("#epoch-shown").inner_text()
    assert "predicted" in page.locator("#title").inner_text()
    assert changed_by(page, grid, lambda: slide(page, "epoch", 1))


def test_frame_slider_changes_the_skeleton(page) -> None:
    slide(page, "frame", 0)
    assert changed_by(page, pose, lambda: slide(page, "frame", 3))
    assert page.locator("#frame-shown").inner_text().startswith("3 /")


def test_hover_draws_the_frame_under_the_pointer(page) -> None:
    box = page.locator("#grid .nsewdrag").bounding_box()
    heads, layers = 9, 2
    at = (box["x"] + box["width"] * (4.5 / heads), box["y"] + box["height"] * (0.4 / layers))
    page.mouse.move(at[0] - 5, at[1])
    assert changed_by(page, pose, lambda: page.mouse.move(*at, steps=4))
    reading = page.locator("#reading").inner_text()
    assert "enc_0, head 4" in reading
    assert "times a uniform share" in reading
    page.mouse.click(*at)
    page.mouse.move(0, 0)
    page.wait_for_timeout(100)
    assert "head 4" in page.locator("#weights .gtitle").text_content()


@pytest.mark.parametrize(
    ("key", "read"),
    [("ArrowRight", pose), ("ArrowLeft", pose), ("ArrowDown", grid), ("ArrowUp", grid), ("e", grid), ("]", grid)],
)
def test_keyboard_alone_is_enough(page, key: str, read) -> None:
    page.locator("#play").focus()
    for name, value in (("clip", "0"), ("stack", "enc")):
        page.select_option(f"#{name}", value)
    slide(page, "epoch", 0 if key == "ArrowUp" else 1)
    slide(page, "frame", 2)
    page.locator("#play").focus()
    assert changed_by(page, read, lambda: page.keyboard.press(key))


def test_keys_choose_head_and_layer(page) -> None:
    page.select_option("#stack", "enc")
    page.locator("#play").focus()
    page.keyboard.press("7")
    page.keyboard.press("s")
    page.wait_for_timeout(100)
    assert "enc_1, head 7" in page.locator("#reading").inner_text()

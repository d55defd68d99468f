"""What is generated from the code is up to date, and what the papers name is there."""

import re
from pathlib import Path

import pytest

from docs.commands import page
from docs.house import arrows, drawing
from tests.test_floors import FLOORS, ROOT, sources

DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
PAPERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (ROOT / "docs/commands.md").read_text() == page(), "run make commands"


def test_the_picture_of_the_house_is_up_to_date() -> None:
    assert (ROOT / "docs/house.svg").read_text() == drawing(), "run make picture"


def test_the_picture_has_every_wing_and_no_arrow_up() -> None:
    pairs = arrows(sources())
    assert all(FLOORS[above] > FLOORS[below] or FLOORS[above] <= 2 for above, below in pairs)
    assert {"running", "query", "store"} <= {name for pair in pairs for name in pair}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / target).exists(), f"{path}: {target} is not there"


def test_decisions_are_numbered_and_linked() -> None:
    numbers = [int(path.name.split("-")[0]) for path in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))
    index = (ROOT / "docs/decisions/README.md").read_text()
    assert all(path.name in index for path in DECISIONS)


def test_decisions_that_the_code_names_are_there() -> None:
    named = {name for text in sources().values() for name in re.findall(r"docs/decisions/(\d{3}-[a-z0-9-]+\.md)", text)}
    assert named
    assert named <= {path.name for path in DECISIONS}

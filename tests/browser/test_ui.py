"""`labtrail ui` as a researcher meets it: the printed link opens the runs as charts."""

from collections.abc import Iterator

import pytest

from tests.browser.chromium import browser_page, needs_chromium
from tests.cluster.private_slurm import answers, free_port
from tests.workspace import Workspace, wait_until

pytestmark = [pytest.mark.browser, needs_chromium]


@pytest.fixture
def link(workspace: Workspace) -> Iterator[str]:
    """The link that `labtrail ui` prints for spoter, with two finished runs behind it."""
    for seed in ("0", "1"):
        assert workspace.spoter("--seed", seed, "--train.epochs", "2").returncode == 0
    port = free_port()
    with workspace.started("labtrail", "ui", "--port", str(port), stdout="ui.log"):
        log = workspace.folder / "ui.log"
        wait_until(lambda: "spoter" in log.read_text())
        wait_until(lambda: answers(port))
        yield next(line.split()[1] for line in log.read_text().splitlines() if line.startswith("spoter"))


def test_printed_link_shows_the_runs_as_charts(link: str) -> None:
    with browser_page(width=1400, height=900) as page:
        page.goto(link)
        # The page never becomes idle: it is ready when what it must show is there.
        for text in ("synthetic-adamw-s0", "synthetic-adamw-s1", "validation/accuracy"):
            page.get_by_text(text).first.wait_for(timeout=60_000)
        assert "compareRunsMode=CHART" in page.url

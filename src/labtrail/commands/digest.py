"""``labtrail digest``: the story of some days."""

from pathlib import Path

import click

from labtrail.running.cli import HELP, LabCommand, LabPath
from labtrail.store import contract


@click.command(cls=LabCommand, name="digest", context_settings=HELP)
@click.option(
    "--since",
    default="7d",
    show_default=True,
    metavar="7d|12h|2w|DATE",
    help="How far back, or from which day (2026-01-31).",
)
@click.option(
    "--folder",
    type=LabPath(),
    default=Path("digests"),
    show_default=True,
    help="Where the pages go; their names have the day.",
)
def command(since: str, folder: Path) -> int:
    """Tells the story of the last days: runs, failures, what got better, figures, commits."""
    from datetime import UTC, datetime

    from labtrail.report.digest import moment_of, write_digest

    now = datetime.now(UTC)
    text, written = write_digest(moment_of(since, now), now, folder)
    click.echo(text)
    click.echo("\n" + " ".join(map(str, written)), err=True)
    return contract.DONE

"""``labtrail archive``: closes a round: frozen report, tables, export."""

from pathlib import Path

import click

from labtrail.running.cli import HELP, LabCommand, LabPath
from labtrail.store import contract


@click.command(cls=LabCommand, name="archive", context_settings=HELP)
@click.argument("campaign")
@click.option(
    "--export",
    type=LabPath(),
    metavar="FOLDER|FILE.tar.gz",
    help="Also copy all its runs, with what they read and all artifacts.",
)
@click.option(
    "--folder", type=LabPath(), default=Path("archive"), show_default=True, help="Where its folder of results goes."
)
def command(campaign: str, export: Path | None, folder: Path) -> int:
    """Closes a round: writes its results to a folder and marks its runs, so that a new round starts clean."""
    from labtrail.report.archive import archive as close

    done = close(campaign, folder, export)
    if done.runs:
        click.echo(
            f"{done.folder}: README.md, report.html, tables and figures; {done.runs} runs are marked as archived"
        )
    if done.exported:
        click.echo(f"{done.exported}: a copy; labtrail restore {done.exported}")
    return contract.DONE

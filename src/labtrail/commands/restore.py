"""``labtrail restore``: brings an export into a store."""

from pathlib import Path

import click

from labtrail.running.cli import HELP, LabCommand, LabPath
from labtrail.store import contract


@click.command(cls=LabCommand, name="restore", context_settings=HELP)
@click.argument("path", type=LabPath())
def command(path: Path) -> int:
    """Brings an exported round back into this store; safe to repeat."""
    from labtrail.report.archive import restore as bring_back

    counts = bring_back(path)
    click.echo(f"{counts.copied} runs restored, {counts.same} were there already")
    return contract.DONE

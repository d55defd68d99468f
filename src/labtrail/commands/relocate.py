"""``labtrail relocate``: mends artifact addresses after the folder moved."""

import os
from pathlib import Path

import click

from labtrail.errors import LabtrailError
from labtrail.running.cli import HELP, LabCommand, LabPath
from labtrail.store import contract


@click.command(cls=LabCommand, name="relocate", context_settings=HELP)
@click.argument("old", type=LabPath())
@click.argument("new", type=LabPath())
def command(old: Path, new: Path) -> int:
    """Tells the store that the artifacts' folder OLD is now called NEW, after a checkout was moved."""
    from labtrail.store import relocate

    # Not resolved: addresses have the name that the folder was called by, links and all.
    old, new = (Path(os.path.normpath(path.absolute())) for path in (old, new))
    changed = relocate.relocate(old, new)
    for place, count in changed.items():
        click.echo(f"{place}: {count} addresses changed")
    if not any(changed.values()):
        raise LabtrailError(f"no address of the store begins with {old}; nothing was changed")
    return contract.DONE

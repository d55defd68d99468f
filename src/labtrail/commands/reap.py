"""``labtrail reap``: ends runs whose process is gone."""

import click

from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract


@click.command(cls=LabCommand, name="reap", context_settings=HELP)
def command() -> int:
    """Closes runs that say RUNNING or SCHEDULED but whose job or process is gone; they can be continued."""
    from labtrail.sweeps import upkeep

    closed = upkeep.reap()
    for run_id, reason in closed:
        click.echo(f"run {run_id} KILLED: {reason}")
    click.echo(f"{len(closed)} runs closed")
    return contract.DONE

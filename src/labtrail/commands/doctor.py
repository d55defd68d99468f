"""``labtrail doctor``: what is wrong with this machine or store."""

import click

from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract


@click.command(cls=LabCommand, name="doctor", context_settings=HELP)
def command() -> int:
    """Looks at store, artifacts, open runs, versions and disk; changes nothing, and fails if something is wrong."""
    from labtrail.sweeps import upkeep

    problems = 0
    for finding in upkeep.doctor():
        problems += finding.verdict == "problem"
        click.echo(f"{finding.verdict:8} {finding.text}")
    return contract.FAILED if problems else contract.DONE

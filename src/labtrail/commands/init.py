"""``labtrail init``: creates or migrates the store."""

import click

from labtrail.running.cli import HELP, LabCommand
from labtrail.running.registry import experiment_names
from labtrail.store import contract


@click.command(cls=LabCommand, name="init", context_settings=HELP)
@click.option(
    "--artifacts",
    default="",
    metavar="FOLDER",
    help="Where new experiments keep their artifacts, such as a scratch file system.",
)
def command(artifacts: str) -> int:
    """Creates or migrates the store and creates one experiment per project; safe to repeat."""
    from labtrail.store import connection

    for name, experiment_id in connection.initialise(experiment_names(), artifacts).items():
        click.echo(f"experiment {name}: id {experiment_id}")
    click.echo(f"store: {connection.tracking_uri()}")
    return contract.DONE

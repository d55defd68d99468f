"""``labtrail ui``: MLflow in the browser, opened at what is newest."""

import click

from labtrail.commands.server import LOCALHOST, become_server
from labtrail.running.cli import HELP, LabCommand
from labtrail.running.registry import experiment_names
from labtrail.store import contract


@click.command(cls=LabCommand, name="ui", context_settings=HELP)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
@click.option(
    "--host", default=LOCALHOST, show_default=True, help="Address to listen on; only this machine unless told."
)
def command(port: int, host: str) -> int:
    """Starts the MLflow UI as it should be started; prints links to what is newest, and notes them on its pages."""
    from labtrail.report import ui_guide
    from labtrail.store import connection

    base = f"http://{host}:{port}"
    experiments = connection.initialise(experiment_names())
    try:
        places = ui_guide.places(base, experiments)
        ui_guide.write_notes(places, experiments)
    except Exception as error:  # Without its links the UI is still wanted.
        places = []
        click.echo(f"no links: {type(error).__name__}: {error}", err=True)
    for place in places:
        click.echo(f"{place.experiment:10} {place.link}  {place.words}")
    become_server(connection.tracking_uri(), ["--host", host, "--port", str(port)])
    return contract.DONE

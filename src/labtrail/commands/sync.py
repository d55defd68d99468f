"""``labtrail sync``: brings runs from another store."""

from pathlib import Path

import click

from labtrail.errors import ConfigError
from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract


@click.command(cls=LabCommand, name="sync", context_settings=HELP)
@click.argument("source")
@click.option("--to", "target", default="", help="Address of the other store; by default the one of this folder.")
def command(source: str, target: str) -> int:
    """Copies ended runs of SOURCE (a database URL or a SQLite file) with their artifacts; safe to repeat."""
    from labtrail.store import connection, locks
    from labtrail.store.sync import sync as copy_runs

    path = Path(source)
    if "://" not in source and not path.is_file():
        raise ConfigError([f"{source}: neither a file nor an address such as sqlite:///runs.db"])
    address = source if "://" in source else f"sqlite:///{path.resolve()}"
    with locks.locked("sync"):
        counts = copy_runs(
            connection.open_store(address), connection.open_store(target) if target else connection.current_store()
        )
    click.echo(f"{counts.copied} runs copied, {counts.same} were there already, {counts.open} have not ended yet")
    return contract.DONE

"""``labtrail server``: a tracking server for jobs on other nodes; the process of the UI, too."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from labtrail.errors import ConfigError
from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract

LOCALHOST = "127.0.0.1"


@click.command(cls=LabCommand, name="server", context_settings=HELP)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default=LOCALHOST, show_default=True, help="Address to listen on; 0.0.0.0 for all nodes.")
@click.option(
    "--allow",
    multiple=True,
    metavar="HOST",
    help="Name by which clients call it; may be repeated. It keeps web pages out, not people.",
)
@click.option(
    "--artifacts",
    default="mlartifacts",
    show_default=True,
    metavar="FOLDER",
    help="Where it keeps the artifacts that clients send.",
)
def command(port: int, host: str, allow: Sequence[str], artifacts: str) -> int:
    """Starts a tracking server for jobs on other nodes: one worker, artifacts through it, named hosts only."""
    from labtrail.store import connection

    uri = connection.tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise ConfigError([f"MLFLOW_TRACKING_URI={uri}: a server needs a database; name one, or unset it"])
    if host != LOCALHOST and not allow:
        raise ConfigError([f"--host {host}: --allow is missing; name this machine as the other nodes call it"])
    names = [*allow, "localhost", LOCALHOST]
    hosts = ",".join(f"{name}:{port}" for name in dict.fromkeys(names)) + "," + ",".join(dict.fromkeys(names))
    click.echo(
        f"on every node: export MLFLOW_TRACKING_URI=http://{allow[0] if allow else host}:{port}; then labtrail init"
    )
    options = ["--host", host, "--port", str(port), "--allowed-hosts", hosts, "--serve-artifacts"]
    options += [
        "--artifacts-destination",
        str(Path(artifacts).absolute()),
        "--default-artifact-root",
        "mlflow-artifacts:/",
    ]
    connection.current_store().search_experiments(max_results=1)
    become_server(uri, options)
    return contract.DONE


def become_server(uri: str, options: Sequence[str]) -> None:
    """Replaces this process by MLflow's server on a store."""
    # More than one worker makes every request slower; job execution starts several idle processes.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1", *options]
    sys.stdout.flush()
    os.execve(sys.executable, words, environment)  # noqa: S606 no shell is the point

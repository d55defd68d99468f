"""The ``labtrail`` command: what is done with the store and with campaigns, as opposed to in a run."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from labtrail.errors import ConfigError, LabtrailError
from labtrail.running.cli import command_line

_HELP = {"help_option_names": ["-h", "--help"]}
_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
_LOCAL = "127.0.0.1"


@click.group(context_settings=_HELP)
def _labtrail() -> None:
    """Looks after the store in which all runs live (MLFLOW_TRACKING_URI, or ./mlflow.db)."""


@_labtrail.command()
@click.option("--artifacts", default="", metavar="FOLDER",
              help="Where new experiments keep their artifacts, such as a scratch file system.")  # fmt: skip
def init(artifacts: str) -> int:
    """Creates or migrates the store and creates one experiment per project; safe to repeat."""
    from labtrail.store import connection

    _in_project()
    for name, experiment_id in connection.initialise(_experiments(), artifacts).items():
        click.echo(f"experiment {name}: id {experiment_id}")
    click.echo(f"store: {connection.tracking_uri()}")
    return 0


@_labtrail.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default=_LOCAL, show_default=True, help="Address to listen on; only this machine unless told.")
def ui(port: int, host: str) -> int:
    """Starts the MLflow UI as it should be started; prints links to what is newest, and notes them on its pages."""
    from labtrail.report import ui_guide
    from labtrail.store import connection

    base = f"http://{host}:{port}"
    experiments = connection.initialise(_experiments())
    try:
        found = ui_guide.places(base, experiments)
        ui_guide.write_notes(found, experiments)
    except Exception as error:  # Without its links the UI is still wanted.
        found = []
        click.echo(f"no links: {type(error).__name__}: {error}", err=True)
    for one in found:
        click.echo(f"{one.experiment:10} {one.link}  {one.words}")
    _become_server(connection.tracking_uri(), ["--host", host, "--port", str(port)])
    return 0


@_labtrail.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--host", default=_LOCAL, show_default=True, help="Address to listen on; 0.0.0.0 for all nodes.")
@click.option("--allow", multiple=True, metavar="HOST",
              help="Name by which clients call it; may be repeated. It keeps web pages out, not people.")  # fmt: skip
@click.option("--artifacts", default="mlartifacts", show_default=True, metavar="FOLDER",
              help="Where it keeps the artifacts that clients send.")  # fmt: skip
def server(port: int, host: str, allow: Sequence[str], artifacts: str) -> int:
    """Starts a tracking server for jobs on other nodes: one worker, artifacts through it, named hosts only."""
    from labtrail.store import connection

    uri = connection.tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise ConfigError([f"MLFLOW_TRACKING_URI={uri}: a server needs a database; name one, or unset it"])
    if host != _LOCAL and not allow:
        raise ConfigError([f"--host {host}: --allow is missing; name this machine as the other nodes call it"])
    names = [*allow, "localhost", _LOCAL]
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
    _become_server(uri, options)
    return 0


def _become_server(uri: str, options: Sequence[str]) -> None:
    # More than one worker makes every request slower; job execution starts several idle processes.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1", *options]
    sys.stdout.flush()
    os.execve(sys.executable, words, environment)  # noqa: S606 no shell is the point


@_labtrail.command(context_settings=_PASSED_ON, add_help_option=False)
@click.pass_context
def campaign(context: click.Context) -> None:
    """Runs or submits what a round is missing (options: labtrail campaign --help; cron on|off)."""
    _in_project()
    words = list(context.args)
    if words[:1] == ["cron"]:
        context.exit(_cron.main(args=words[1:], prog_name="labtrail campaign cron", standalone_mode=False) or 0)
    os.environ["PYTHONPATH"] = os.pathsep.join(["src", *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "projects.campaign", *words])  # noqa: S606 no shell is the point


@click.command(context_settings=_HELP)
@click.argument("switch", type=click.Choice(["on", "off"]))
@click.option("--config", "path", type=Path, required=True, help="YAML file of a campaign.")
@click.option("--backend", type=click.Choice(["slurm", "pbs"]), default="slurm", show_default=True)
@click.option("--backend-config", type=Path, help="JSON file of the jobs' resources; needed to switch on.")
@click.option("--every", type=click.IntRange(1, 59), default=10, show_default=True, metavar="MINUTES")
def _cron(switch: str, path: Path, backend: str, backend_config: Path | None, every: int) -> int:
    """Lets cron look after a campaign: one line in the crontab, one log."""
    from labtrail.store import locks
    from labtrail.sweeps import cron

    name = str(path.resolve())
    if switch == "off":
        click.echo(f"campaign {path}: {'off' if cron.switch_off(name) else 'was not on'}")
        return 0
    if backend_config is None:
        raise ConfigError(["--backend-config is missing; name a file such as slurm/cpu.json"])
    options = ["--config", str(path), "--backend", backend, "--backend-config", str(backend_config)]
    _would_run(options)
    log = locks.state_folder() / "campaigns" / f"{path.stem}.cron.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Cron knows neither the environment's PATH nor its variables.
    variables = {
        key: os.environ[key]
        for key in ("PATH", "LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI", "SLURM_CONF")
        if key in os.environ
    }
    words = ["env", *(f"{key}={value}" for key, value in variables.items()), sys.executable, "-m", "labtrail.console"]
    click.echo(cron.switch_on(name, [*words, "campaign", *options, "--report"], str(Path.cwd()), str(log), every))
    click.echo(f"log: {log}; the crontab is that of this machine ({socket.gethostname()})")
    return 0


def _would_run(options: Sequence[str]) -> None:
    """Refuses a campaign that a tick would refuse, before it goes into the crontab."""
    import subprocess

    words = [sys.executable, "-m", "labtrail.console", "campaign", *options, "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise LabtrailError("\n".join(line.removeprefix("error: ") for line in done.stderr.strip().splitlines()[-5:]))


@_labtrail.command()
@click.argument("source")
@click.option("--to", "target", default="", help="Address of the other store; by default the one of this folder.")
def sync(source: str, target: str) -> int:
    """Copies ended runs of SOURCE (a database URL or a SQLite file) with their artifacts; safe to repeat."""
    from labtrail.store import connection, locks
    from labtrail.store.sync import sync as copy_runs

    given = Path(source)
    if "://" not in source and not given.is_file():
        raise ConfigError([f"{source}: neither a file nor an address such as sqlite:///runs.db"])
    address = source if "://" in source else f"sqlite:///{given.resolve()}"
    with locks.locked("sync"):
        found = copy_runs(
            connection.open_store(address), connection.open_store(target) if target else connection.current_store()
        )
    click.echo(f"{found.copied} runs copied, {found.same} were there already, {found.open} have not ended yet")
    return 0


@_labtrail.command()
def doctor() -> int:
    """Looks at store, artifacts, open runs, versions and disk; changes nothing, and fails if something is wrong."""
    from labtrail.sweeps import upkeep

    problems = 0
    for finding in upkeep.doctor():
        problems += finding.verdict == "problem"
        click.echo(f"{finding.verdict:8} {finding.text}")
    return int(problems > 0)


@_labtrail.command()
def reap() -> int:
    """Closes runs that say RUNNING or SCHEDULED but whose job or process is gone; they can be continued."""
    from labtrail.sweeps import upkeep

    closed = upkeep.reap()
    for run_id, reason in closed:
        click.echo(f"run {run_id} KILLED: {reason}")
    click.echo(f"{len(closed)} runs closed")
    return 0


@_labtrail.command()
@click.argument("old", type=Path)
@click.argument("new", type=Path)
def relocate(old: Path, new: Path) -> int:
    """Tells the store that the artifacts' folder OLD is now called NEW, after a checkout was moved."""
    from labtrail.store import relocate

    changed = relocate.relocate(old.absolute(), new.absolute())
    for place, count in changed.items():
        click.echo(f"{place}: {count} addresses changed")
    if not any(changed.values()):
        raise LabtrailError(f"no address of the store begins with {old.absolute()}; nothing was changed")
    return 0


@_labtrail.command()
@click.argument("campaign")
@click.option("--export", type=Path, metavar="FOLDER|FILE.tar.gz",
              help="Also copy all its runs, with what they read and all artifacts.")  # fmt: skip
@click.option("--folder", type=Path, default=Path("archive"), show_default=True,
              help="Where its folder of results goes.")  # fmt: skip
def archive(campaign: str, export: Path | None, folder: Path) -> int:
    """Closes a round: writes its results to a folder and marks its runs, so that a new round starts clean."""
    from labtrail.report.archive import archive as close

    done = close(campaign, folder, export)
    if done.runs:
        click.echo(
            f"{done.folder}: README.md, report.html, tables and figures; {done.runs} runs are marked as archived"
        )
    if done.exported:
        click.echo(f"{done.exported}: a copy; labtrail restore {done.exported}")
    return 0


@_labtrail.command()
@click.argument("path", type=Path)
def restore(path: Path) -> int:
    """Brings an exported round back into this store; safe to repeat."""
    from labtrail.report.archive import restore as bring_back

    counts = bring_back(path)
    click.echo(f"{counts.copied} runs restored, {counts.same} were there already")
    return 0


@_labtrail.command()
@click.option("--since", default="7d", show_default=True, metavar="7d|12h|2w|DATE",
              help="How far back, or from which day (2026-01-31).")  # fmt: skip
@click.option("--folder", type=Path, default=Path("digests"), show_default=True,
              help="Where the pages go; their names have the day.")  # fmt: skip
def digest(since: str, folder: Path) -> int:
    """Tells the story of the last days: runs, failures, what got better, figures, commits."""
    from datetime import UTC, datetime

    from labtrail.report.digest import moment_of, write_digest

    now = datetime.now(UTC)
    text, written = write_digest(moment_of(since, now), now, folder)
    click.echo(text)
    click.echo("\n" + " ".join(map(str, written)), err=True)
    return 0


def _in_project() -> None:
    if not Path("MLproject").is_file():
        raise LabtrailError(f"{Path.cwd()}: no MLproject here; run labtrail in the project's folder")


def _experiments() -> list[str]:
    """One experiment per project, and those of reports and of the tour."""
    return [*sorted(path.parent.name for path in Path("projects").glob("*/__main__.py")), "report", "tour"]


def main() -> None:
    """Entry point of the ``labtrail`` command."""
    command_line(_labtrail)


if __name__ == "__main__":
    main()

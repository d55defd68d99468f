"""``labtrail campaign``: runs or submits what a round is missing; safe to repeat, to kill and to start twice."""

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labtrail.config import load_config
from labtrail.errors import ConfigError, LabtrailError
from labtrail.jobs.backends import LOCAL, NAMES
from labtrail.running.cli import HELP, LabCommand, LabPath, switch
from labtrail.running.registry import task_named
from labtrail.store import contract

if TYPE_CHECKING:
    from collections.abc import Callable

    from labtrail.jobs.queues import Batch
    from labtrail.running.task import Task
    from labtrail.sweeps.campaign import Campaign
    from labtrail.sweeps.cells import CampaignConfig
    from labtrail.sweeps.round_code import Answer, Pin

_CONFIG = click.option("--config", "path", type=LabPath(), required=True, help="YAML file of a campaign.")
# Options of earlier versions, in crontabs and scripts -> the command that does it now.
_EARLIER = {"--status": "status", "--cancel": "cancel", "--retry": "retry"}


class _Campaign(click.Group):
    """Takes the options of earlier versions, too: ``labtrail campaign --config FILE --status``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the command first that earlier options mean."""
        if args and args[0].startswith("-") and args[0] not in HELP["help_option_names"]:
            args = _translated(args)
        return super().parse_args(ctx, args)


def _translated(words: list[str]) -> list[str]:
    command, rest, words = "run", [], list(words)
    while words:
        word = words.pop(0)
        option, has_value, value = word.partition("=")
        if option not in _EARLIER:
            rest.append(word)
            continue
        if not has_value and words and not words[0].startswith("-"):
            value = words.pop(0)
        if value.lower() not in ("false", "no", "0"):
            command = _EARLIER[option]
    return [command, *rest]


def _on_scheduler(function: "Callable[..., Any]") -> "Callable[..., Any]":
    """Options of the commands that need a batch scheduler."""
    for option in (
        click.option(
            "--backend-config", type=LabPath(), help="JSON file of the jobs' resources, such as slurm/cpu.json."
        ),
        click.option(
            "--backend",
            type=click.Choice([LOCAL, *NAMES]),
            default=LOCAL,
            show_default=True,
            help="Where cells run: here, or as jobs of a scheduler, when each call submits what is due.",
        ),
        _CONFIG,
    ):
        function = option(function)
    return function


@click.group(cls=_Campaign, name="campaign", context_settings=HELP, no_args_is_help=True)
def command() -> None:
    """Runs or submits what a written grid is missing."""


@command.command(cls=LabCommand, context_settings=HELP)
@_on_scheduler
@click.option("--workers", type=click.IntRange(1), help="Cells at once; by default as many as this machine has cores.")
@switch("--dry-run", "Print the cells with their states and commands, and stop.")
@switch("--report", "Write the page of the round as it stands to reports/NAME.html after a tick.")
@switch("--again", "Look again at a campaign that has finished: finished cells stay; those of other code run again.")
@switch("--keep", "Go on with the present code, and count what other code has done.")
@switch("--pinned", "Go on with the code that the round began with.")
def run(
    path: Path,
    backend: str,
    backend_config: Path | None,
    workers: int | None,
    dry_run: bool,
    report: bool,
    again: bool,
    keep: bool,
    pinned: bool,
) -> int:
    """Runs what is missing here, or, on a scheduler, submits what is due.

    All cells run from one copy of the code, taken when the round begins. Where the code has changed since, this machine
    asks once (exit status 3); a scheduler's tick, which nobody may be watching, goes on with the round's own.
    """
    from labtrail.jobs.queues import batch_named
    from labtrail.running.execute import Options, execute
    from labtrail.sweeps.campaign import campaign_task
    from labtrail.sweeps.round_code import Answer

    batch = batch_named(backend, backend_config)
    if batch is None and report:
        raise ConfigError(["--report belongs to a scheduler: name it with --backend"])
    if dry_run:
        return _dry_run(_opened(path), batch)
    answer = Answer(keep, again, pinned)
    config, task, pin = _pinned(path, answer, ask=batch is None)
    if batch is not None:
        status = _tick(_campaign(config, task, pin, answer), batch, retry=False)
        if report:
            _refresh_report(config.name)
        return status
    if not pin.recorded:
        _campaign(config, task, pin, answer)
    local = campaign_task(config, task, path, workers or os.cpu_count() or 1, pin)
    return execute(local, config, Options(again=again, tags={contract.CODE: pin.code.digest}))


@command.command(cls=LabCommand, context_settings=HELP)
@_on_scheduler
def status(path: Path, backend: str, backend_config: Path | None) -> int:
    """Prints how many cells are done, running, dead or stuck."""
    from labtrail.sweeps import tick

    campaign, batch = _opened(path), _scheduler(backend, backend_config)
    tick.refresh_from_queue(campaign, batch)
    return _show(campaign, batch)


@command.command(cls=LabCommand, context_settings=HELP)
@_on_scheduler
def cancel(path: Path, backend: str, backend_config: Path | None) -> int:
    """Ends all jobs of a campaign; the next run goes on."""
    from labtrail.sweeps import tick

    batch = _scheduler(backend, backend_config)
    cancelled = tick.cancel(_opened(path), batch)
    click.echo(f"{len(cancelled)} jobs were cancelled; the next tick goes on (labtrail campaign cron off stops them)")
    return contract.DONE


@command.command(cls=LabCommand, context_settings=HELP)
@_on_scheduler
def retry(path: Path, backend: str, backend_config: Path | None) -> int:
    """Submits what is due, and again the cells that failed by themselves or were given up."""
    from labtrail.sweeps.round_code import Answer

    batch = _scheduler(backend, backend_config)
    config, task, pin = _pinned(path, Answer(), ask=False)
    return _tick(_campaign(config, task, pin, Answer()), batch, retry=True)


@command.command(cls=LabCommand, context_settings=HELP)
@click.argument("switch", type=click.Choice(["on", "off"]))
@_CONFIG
@click.option("--backend", type=click.Choice(NAMES), default=NAMES[0], show_default=True, help="The scheduler.")
@click.option("--backend-config", type=LabPath(), help="JSON file of the jobs' resources; needed to switch on.")
@click.option(
    "--every",
    type=click.IntRange(1, 59),
    default=10,
    show_default=True,
    metavar="MINUTES",
    help="Time between two ticks.",
)
def cron(switch: str, path: Path, backend: str, backend_config: Path | None, every: int) -> int:
    """Lets cron look after a campaign: one line in the crontab, one log."""
    from labtrail.store import lab
    from labtrail.sweeps import cron as crontab

    name = str(path.resolve())
    if switch == "off":
        click.echo(f"campaign {path}: {'off' if crontab.switch_off(name) else 'was not on'}")
        return contract.DONE
    if backend_config is None:
        raise ConfigError(["--backend-config is missing; name a file such as slurm/cpu.json"])
    options = ["--config", str(path), "--backend", backend, "--backend-config", str(backend_config)]
    words = [sys.executable, "-m", "labtrail.console", "campaign", "run", *options]
    _would_run([*words, "--dry-run"])
    log = lab.state_folder() / "campaigns" / f"{path.stem}.cron.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Cron knows neither the environment's PATH nor its variables.
    variables = {
        key: os.environ[key]
        for key in ("PATH", "LD_LIBRARY_PATH", "MLFLOW_TRACKING_URI", "SLURM_CONF")
        if key in os.environ
    }
    line = ["env", *(f"{key}={value}" for key, value in variables.items()), *words, "--report"]
    click.echo(crontab.switch_on(name, line, str(Path.cwd()), str(log), every))
    click.echo(f"log: {log}; the crontab is that of this machine ({socket.gethostname()})")
    return contract.DONE


def _would_run(words: list[str]) -> None:
    """Refuses a campaign that a tick would refuse, before it goes into the crontab."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != contract.DONE:
        raise LabtrailError("\n".join(line.removeprefix("error: ") for line in done.stderr.strip().splitlines()[-5:]))


def _scheduler(backend: str, backend_config: Path | None) -> "Batch":
    from labtrail.jobs.queues import batch_named

    batch = batch_named(backend, backend_config)
    if batch is None:
        raise ConfigError([f"this belongs to a scheduler: name it with --backend ({', '.join(NAMES)})"])
    return batch


def _pinned(path: Path, answer: "Answer", *, ask: bool, begin: bool = True) -> "tuple[CampaignConfig, Task[Any], Pin]":
    """A round, its cells' task, and the code that it runs from; may go on as a process of that code.

    Raises:
        ConfigError: a cell's config is not valid.
        CodeError: the code has changed since the round began.
    """
    from labtrail.sweeps.cells import CampaignConfig, cells_of, load_cell, state_of
    from labtrail.sweeps.round_code import pin_of

    config = load_config(CampaignConfig, path)
    task = task_named(config.task)
    configs = [load_cell(task, cell) for cell in cells_of(config, task)]
    what, otherwise = f"campaign {config.name}", "--again does again, with the present one, what is done"
    pin = pin_of(state_of(config.name), what, task, configs, answer, otherwise, ask=ask, begin=begin)
    return config, task, pin


def _campaign(config: "CampaignConfig", task: "Task[Any]", pin: "Pin", answer: "Answer") -> "Campaign":
    """A round whose cells may be started.

    Raises:
        CodeError: other code has done or begun some of them.
    """
    from labtrail.store import connection
    from labtrail.sweeps.campaign import Campaign, run_command
    from labtrail.sweeps.cells import with_frozen_bases

    connection.initialise([task.experiment_name])
    campaign = Campaign(with_frozen_bases(config), task, run_command(task), pin)
    campaign.judge_code(answer)
    return campaign


def _opened(path: Path) -> "Campaign":
    """A round that is only looked at."""
    from labtrail.store import connection
    from labtrail.sweeps.campaign import Campaign, run_command
    from labtrail.sweeps.round_code import Answer

    config, task, pin = _pinned(path, Answer(), ask=False, begin=False)
    connection.initialise([task.experiment_name])
    return Campaign(config, task, run_command(task), pin)


def _dry_run(campaign: "Campaign", batch: "Batch | None") -> int:
    """What would be run or submitted, with its commands."""
    from labtrail.jobs.script import check
    from labtrail.sweeps.tick import job_name, refresh_from_queue

    if batch is None:
        campaign.refresh()
    else:
        refresh_from_queue(campaign, batch)
        check(batch.config, batch.queue, [job_name(campaign, cell) for cell in campaign.ready()])
    for cell in campaign.cells:
        words = shlex.join(["python", *campaign.job(cell).command[1:]])
        beside = "  (other code has done or begun this work)" if cell.again else ""
        click.echo(f"{cell.state:8} {cell.name}  {cell.run_id or cell.problem or words}{beside}")
    click.echo(_counted(campaign))
    return contract.DONE


def _tick(campaign: "Campaign", batch: "Batch", *, retry: bool) -> int:
    from labtrail.sweeps import tick

    try:
        tick.tick(campaign, batch, retry=retry)
    except tick.Busy as busy:
        click.echo(str(busy))
        return contract.DONE
    return _show(campaign, batch)


def _show(campaign: "Campaign", batch: "Batch") -> int:
    """Prints the states of all cells; the exit status tells whether cells have failed for good."""
    from labtrail.running.run_status import describe_given
    from labtrail.sweeps import tick

    click.echo(tick.overview(campaign.cells).to_string(index=False))
    for line in tick.remarks(campaign.cells, _links(campaign)):
        click.echo(line)
    counted = _counted(campaign)
    click.echo(counted)
    describe_given(f"A look at campaign {campaign.name} on {batch.queue.name}: {counted}.")
    failed = any(cell.state in ("failed", "dead") for cell in campaign.cells)
    return contract.FAILED if failed else contract.DONE


def _links(campaign: "Campaign") -> dict[str, str]:
    """Run id -> its page in the MLflow UI."""
    from labtrail.store import connection, ui_links

    experiment = connection.initialise([campaign.experiment])[campaign.experiment]
    base = ui_links.base()
    return {cell.run_id: ui_links.run(base, experiment, cell.run_id) for cell in campaign.cells if cell.run_id}


def _counted(campaign: "Campaign") -> str:
    """How many cells are in each state."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(campaign.counts().items()))
    return f"{len(campaign.cells)} cells: {counts}"


def _refresh_report(name: str) -> None:
    """What can go wrong with a page must not stop the ticks of a round."""
    from labtrail.report.build import refresh

    try:
        written = refresh(name, Path("reports"))
    except Exception as error:
        click.echo(f"no report: {type(error).__name__}: {error}", err=True)
        return
    click.echo(f"report: {written or 'none yet, since no run has finished'}")

"""``python -m projects.campaign``: runs the missing cells of a round, teachers before students."""

import os
import shlex
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from accelerate import Accelerator

from labtrail.config import load_config
from labtrail.errors import ConfigError
from labtrail.files import sha256_of
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.cli import command_line
from labtrail.running.launch import require_one_process
from labtrail.running.record import DataSource, Record
from labtrail.running.task import Task
from projects.tasks import task_named

if TYPE_CHECKING:
    from labtrail.jobs.queues import Batch
    from labtrail.sweeps.campaign import Campaign, CampaignConfig


def _switch(name: str, text: str):
    """An option that is a switch, and takes ``true`` from ``mlflow run -P``."""
    return click.option(name, type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]", help=text)


@click.command(name="python -m projects.campaign", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=Path, required=True, help="YAML file of a campaign.")
@click.option("--workers", type=click.IntRange(1), help="Cells at once; by default as many as this machine has cores.")
@click.option("--backend", type=click.Choice(["local", "slurm", "pbs"]), default="local", show_default=True,
              help="Where cells run: here, or as jobs of a scheduler, when each call submits what is due.")  # fmt: skip
@click.option("--backend-config", type=Path, help="JSON file of the jobs' resources, such as slurm/cpu.json.")
@_switch("--dry-run", "Print the cells with their states and commands, and stop.")
@_switch("--status", "Print how many cells are done, running, dead or stuck, and stop.")
@_switch("--cancel", "End all jobs of this campaign; the next call without it goes on.")
@_switch("--retry", "Submit cells again that failed by themselves or were given up.")
@_switch("--report", "Write the page of the round as it stands to reports/NAME.html after a tick.")
@_switch("--again", "Look again at a campaign that has finished; finished cells stay as they are.")
def main(
    path: Path, workers: int | None, backend: str, backend_config: Path | None, dry_run: bool, status: bool,
    cancel: bool, retry: bool, report: bool, again: bool,
) -> int:  # fmt: skip
    """Runs what a campaign is missing; safe to repeat, to kill and to start twice at once."""
    from labtrail.jobs.local import Local
    from labtrail.jobs.queues import batch_named
    from labtrail.running.execute import Options, execute
    from labtrail.store import connection
    from labtrail.sweeps.campaign import Campaign, CampaignConfig, cells_of, program, run_campaign

    config = load_config(CampaignConfig, path)
    known = task_named(config.task)
    cells_of(config, known.task)
    batch = batch_named(backend, backend_config)
    if batch is None and (status or cancel or retry or report):
        raise ConfigError(["--status, --cancel, --retry and --report belong to a scheduler: name it with --backend"])
    if dry_run or batch is not None:
        connection.initialise([known.task.experiment_name])
    if dry_run:
        return _dry_run(Campaign(config, known.task, program(known.module)), batch)
    if batch is not None:
        ended = _on_scheduler(Campaign(config, known.task, program(known.module)), batch, status, cancel, retry)
        if report:
            _refresh_report(config.name)
        return ended

    def run(config: CampaignConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:  # noqa: ARG001
        require_one_process(accelerator, "campaign")
        campaign = Campaign(config, known.task, program(known.module))
        yield from run_campaign(campaign, Local(workers or os.cpu_count() or 1))

    task = Task(
        name="campaign",
        config=CampaignConfig,
        function=run,
        default=path,
        sources=lambda own: [DataSource(one.name, "base", str(one), sha256_of(one)) for one in _bases(own)],
        title=lambda own: f"campaign-{own.name}",
        experiment=config.task,
    )
    return execute(task, config, Options(again=again))


def _dry_run(campaign: "Campaign", batch: "Batch | None") -> int:
    """What would be run or submitted, with its commands."""
    from labtrail.jobs.script import check
    from labtrail.sweeps.tick import job_name, look

    if batch is None:
        campaign.look()
    else:
        look(campaign, batch)
        check(batch.config, batch.queue, [job_name(campaign, cell) for cell in campaign.cells if cell.state == "ready"])
    for cell in campaign.cells:
        command = shlex.join(["python", *campaign.job(cell).command[1:]])
        click.echo(f"{cell.state:8} {cell.name}  {cell.run_id or cell.problem or command}")
    _counted(campaign)
    return 0


def _on_scheduler(campaign: "Campaign", batch: "Batch", status: bool, cancel: bool, retry: bool) -> int:
    """One tick, or what is asked instead; the exit status tells whether cells have failed for good."""
    from labtrail.running.run_status import describe_given
    from labtrail.sweeps import tick

    if cancel:
        ended = tick.cancel(campaign, batch)
        click.echo(f"{len(ended)} jobs were cancelled; the next tick goes on (labtrail campaign cron off stops them)")
        return 0
    if status:
        tick.look(campaign, batch)
    else:
        try:
            tick.tick(campaign, batch, retry=retry)
        except tick.Busy as busy:
            click.echo(str(busy))
            return 0
    click.echo(tick.overview(campaign.cells).to_string(index=False))
    for line in tick.remarks(campaign.cells, _links(campaign)):
        click.echo(line)
    describe_given(f"A look at campaign {campaign.name} on {batch.queue.name}: {_counted(campaign)}.")
    return int(any(cell.state in ("failed", "dead") for cell in campaign.cells))


def _refresh_report(name: str) -> None:
    """What can go wrong with a page must not stop the ticks of a round."""
    from labtrail.report.build import refresh

    try:
        written = refresh(name, Path("reports"))
    except Exception as error:
        click.echo(f"no report: {type(error).__name__}: {error}", err=True)
        return
    click.echo(f"report: {written or 'none yet, since no run has finished'}")


def _links(campaign: "Campaign") -> dict[str, str]:
    """Run id -> its page in the MLflow UI."""
    from labtrail.store import connection, ui_links

    experiment = connection.initialise([campaign.experiment])[campaign.experiment]
    return {
        cell.run_id: ui_links.run(ui_links.base(), experiment, cell.run_id) for cell in campaign.cells if cell.run_id
    }


def _counted(campaign: "Campaign") -> str:
    """Prints and returns how many cells are in each state."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(campaign.counts().items()))
    text = f"{len(campaign.cells)} cells: {counts}"
    click.echo(text)
    return text


def _bases(config: "CampaignConfig") -> list[Path]:
    """The config files that cells start from."""
    return list(dict.fromkeys(group.config for group in config.groups))


if __name__ == "__main__":
    command_line(main)

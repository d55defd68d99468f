"""``python -m projects.campaign``: runs the missing cells of a round, teachers before students."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from accelerate import Accelerator

from labtrail.checkpoint import Checkpoint
from labtrail.cli import command_line
from labtrail.config import load_config
from labtrail.files import sha256_of
from labtrail.launch import require_one_process
from labtrail.record import DataSource, Record
from labtrail.task import Task
from projects.tasks import task_named

if TYPE_CHECKING:
    from labtrail.campaign import CampaignConfig


@click.command(name="python -m projects.campaign", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", "path", type=Path, required=True, help="YAML file of a campaign.")
@click.option("--workers", type=click.IntRange(1), help="Cells at once; by default as many as this machine has cores.")
@click.option("--dry-run", type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]",
              help="Print the cells with their states and commands, and stop.")  # fmt: skip
@click.option("--again", type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]",
              help="Look again at a campaign that has finished; finished cells stay as they are.")  # fmt: skip
def main(path: Path, workers: int | None, dry_run: bool, again: bool) -> int:
    """Runs what a campaign is missing; safe to repeat, to kill and to start twice at once."""
    from labtrail.campaign import Campaign, CampaignConfig, cells_of, program, run_campaign
    from labtrail.execute import Options, execute
    from labtrail.scheduler import Local

    config = load_config(CampaignConfig, path)
    known = task_named(config.task)
    cells_of(config, known.task)
    if dry_run:
        campaign = Campaign(config, known.task, program(known.module))
        campaign.look()
        for cell in campaign.cells:
            command = " ".join(["python", *campaign.job(cell).command[1:]])
            click.echo(f"{cell.state:8} {cell.name}  {cell.run_id or cell.problem or command}")
        counts = ", ".join(f"{count} {state}" for state, count in sorted(campaign.counts().items()))
        click.echo(f"{len(campaign.cells)} cells: {counts}")
        return 0

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


def _bases(config: "CampaignConfig") -> list[Path]:
    """The config files that cells start from."""
    return list(dict.fromkeys(group.config for group in config.groups))


if __name__ == "__main__":
    command_line(main)

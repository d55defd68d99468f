"""``labtrail run TASK``: starts one task of this lab."""

from collections.abc import Sequence
from typing import Any

import click

from labtrail.running.cli import HELP, task_command
from labtrail.running.registry import known_tasks, task_named


class _Tasks(click.Group):
    """The tasks of this lab as subcommands; only the one that is named is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all tasks."""
        del ctx
        return list(known_tasks())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of a task.

        Raises:
            ConfigError: there is no such task.
        """
        del ctx
        return task_command(task_named(cmd_name), "labtrail.console", f"run {cmd_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A line for each task, with the experiment that its runs go to."""
        del ctx
        rows: Sequence[tuple[str, str]] = [
            (name, f"experiment {task.experiment_name}") for name, task in known_tasks().items()
        ]
        if rows:
            with formatter.section("Tasks of this lab (labtrail run TASK --help lists the values of its config)"):
                formatter.write_dl(rows)


def _command(**settings: Any) -> click.Command:
    return _Tasks(name="run", context_settings=HELP, **settings)


command = _command(
    subcommand_metavar="TASK [OPTIONS]",
    no_args_is_help=True,
    help="Starts one task: a run that is found done, continued, or begun.",
)

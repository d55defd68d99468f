"""The ``labtrail`` command: every command by name; the module of one is imported when it is used."""

from importlib import import_module

import click

from labtrail.config import choices
from labtrail.running.cli import HELP, command_line

# Section -> command -> what it does, in a few words; the module of a command has its name.
COMMANDS = {
    "Start": {
        "run": "start one task of this lab",
        "campaign": "run or submit what a written grid is missing (run | status | cancel | retry | cron)",
        "study": "search for good values with Optuna (run)",
        "tour": "all projects on embedded data",
    },
    "Look": {"ui": "MLflow in the browser, opened at what is newest"},
    "Tell": {
        "report": "one HTML page about a campaign, a task or a list of runs",
        "digest": "the story of some days",
    },
    "Trust": {
        "reproduce": "run a run again by its own code, and compare to the bit",
        "settle": "run a run again by the present code: equal numbers make both codes one",
        "diff": "in what two runs, or a run and this folder, differ",
        "check": "try out whether a task repeats, and survives kills, to the bit (resume | repeat)",
        "doctor": "what is wrong with this machine or store, and the command that mends it",
    },
    "Keep": {
        "archive": "close a round: frozen report, tables, export",
        "restore": "bring an export into a store",
        "fetch": "download a named data set, resumable, with digests",
        "reap": "end runs whose process is gone",
    },
    "Set up": {
        "init": "create or migrate the store",
        "server": "a tracking server for jobs on other nodes",
        "sync": "bring runs from another store",
        "relocate": "fix artifact addresses after the folder moved",
    },
}


class _Commands(click.Group):
    """The command tree; a command's module is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the help."""
        del ctx
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return import_module(f"labtrail.commands.{cmd_name}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            click.UsageError: there is none; names the nearest and lists all.
        """
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}{choices(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in their sections, without importing any."""
        del ctx
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))


@click.group(cls=_Commands, name="labtrail", context_settings=HELP, invoke_without_command=True)
@click.version_option(package_name="labtrail", message="labtrail %(version)s")
@click.pass_context
def labtrail(context: click.Context) -> None:
    """Runs, looks after and tells about experiments (store: MLFLOW_TRACKING_URI, or mlflow.db of the lab's folder).

    Exit status: 0 done, or equal; 1 failed, or differs; 2 refused before it began; 3 a person has to decide; of a
    process that a signal ended 128 and its number. Under mlflow run, which turns every failure into 1, the run's tag
    labtrail.exit_status has it.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Entry point of the ``labtrail`` command."""
    command_line(labtrail)


if __name__ == "__main__":
    main()

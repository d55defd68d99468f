"""The command line of each task: ``labtrail run TASK``, and ``python -m`` of the module that holds it."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from labtrail.config import describe, load_config, to_yaml
from labtrail.errors import ConfigError, LabtrailError
from labtrail.running.processes import end_with_parent
from labtrail.running.signals import Interrupted, ignore_signals, stop_by_exception
from labtrail.running.start import Wishes, start
from labtrail.running.task import Task
from labtrail.store import contract, lab

HELP = {"help_option_names": ["-h", "--help"]}
FREE_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True, **HELP}


class LabPath(click.Path):
    """A path that is typed in the current folder, and read in the lab's."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path as seen from the lab's folder; a default is written that way already."""
        del ctx
        path, folder = Path(os.fspath(value)), lab.working_folder()
        typed = param is None or value != param.default
        return Path(os.path.relpath(path.absolute(), folder)) if typed and not path.is_absolute() else path


class LabCommand(click.Command):
    """A command that runs in the lab's folder, wherever below it it is started."""

    def invoke(self, ctx: click.Context) -> Any:
        """Enters the lab once the paths that were typed have been read."""
        lab.enter()
        return super().invoke(ctx)


def switch(name: str, text: str, **further: Any) -> Any:
    """An option that is a switch, and takes ``true`` from ``mlflow run -P``."""
    return click.option(
        name, type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]", help=text, **further
    )


def run_tasks(tasks: Sequence[Task[Any]], module: str, arguments: Sequence[str] | None = None) -> None:
    """The command line of a project; ends the process with its exit status.

    Args:
        tasks: the project's tasks. The first is run if none is named; ``project-word`` is named by ``word``.
        module: how Python finds this command again (``projects.spoter``), to start more processes of it.
        arguments: instead of the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    named = {task.name.removeprefix(f"{tasks[0].name}-"): task for task in tasks[1:]}
    if words and words[0] in named:
        command_line(task_command(named[words[0]], module, words[0]), words[1:])
    else:
        command_line(task_command(tasks[0], module, others=tuple(named)), words)


def task_command(task: Task[Any], module: str, word: str = "", others: Sequence[str] = ()) -> click.Command:
    """The command that runs a task.

    Args:
        task: what is run.
        module: how Python finds this command again, to start more processes of it.
        word: what stands between the module and the options.
        others: words of further tasks of the project, for the help.
    """
    epilog = _keys_help(task)
    if others:
        epilog = f"Other tasks of this project: python -m {module} {{{'|'.join(others)}}}\n\n{epilog}"

    @click.command(
        cls=LabCommand, name=f"python -m {module} {word}".strip(), context_settings=FREE_ARGUMENTS, epilog=epilog
    )
    @click.option(
        "--config", "path", type=LabPath(), default=task.default, show_default=True, help="YAML file of values."
    )
    @switch("--again", "Run again although a run of this config and data has finished.")
    @switch("--keep", "Let a run of other code count as done, or continue it; both codes are noted on it.")
    @switch("--pinned", "Continue a run with the code that began it, as it was kept, whatever has been edited since.")
    @click.option("--processes", type=click.IntRange(1), help="Processes on this machine; started here if needed.")
    @click.option(
        "--timeout",
        type=click.FloatRange(1),
        default=600.0,
        show_default=True,
        metavar="SECONDS",
        help="Silence after which a process that does not answer the others counts as lost.",
    )
    @click.option(
        "--register", default="", metavar="NAME", help="Name in the model registry for the run's best weights."
    )
    @click.option("--print-config", is_flag=True, help="Print the merged config as YAML and stop.")
    @click.pass_context
    def command(context: click.Context, path: Path | None, print_config: bool, **wishes: Any) -> int:
        # Loading torch and MLflow takes seconds: a typo is answered, and a config printed, before that.
        config = load_config(task.config, path, overrides_of(context.args))
        if print_config:
            click.echo(to_yaml(config), nl=False)
            return contract.DONE
        return start(task, config, Wishes(**wishes), ("-m", module, *word.split()))

    command.help = f"Runs the task {task.name}; its results go to the MLflow experiment {task.experiment_name!r}."
    return command


def command_line(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Runs a click command as this process; errors that a user can fix become lines, not tracebacks."""
    _start()
    stop_by_exception()
    end_with_parent()
    sys.exit(_guarded(command, arguments))


def _start() -> None:
    """Progress goes to standard error, one line at a time; libraries speak up from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("labtrail").setLevel(logging.INFO)


def _guarded(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Runs a click command; errors that a user can fix become lines on standard error."""
    try:
        status = command.main(args=arguments, standalone_mode=False) or contract.DONE
    except click.ClickException as error:
        return _refused(error.format_message(), error.exit_code)
    except Interrupted as interruption:
        ignore_signals()
        if "MLFLOW_RUN_ID" in os.environ:
            from labtrail.running.run_status import mark_abandoned

            mark_abandoned(str(interruption))
        return interruption.exit_status
    except LabtrailError as error:
        return _refused(str(error), error.exit_status)
    _note_status(status)
    return status


def _note_status(status: int) -> None:
    """Leaves a failure's exit status where ``mlflow run`` does not overwrite it."""
    if status != contract.DONE and "MLFLOW_RUN_ID" in os.environ:
        from labtrail.running.run_status import note_exit_status

        note_exit_status(status)


def _refused(message: str, status: int) -> int:
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    if "MLFLOW_RUN_ID" in os.environ:
        from labtrail.running.run_status import mark_refused

        mark_refused(message, status)
    return status


def overrides_of(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``--a.b value`` and ``--a.b=value`` as pairs."""
    pairs = []
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if not name.startswith("--"):
            raise ConfigError([f"{name}: unexpected argument; values are given as --key value"])
        key, has_value, value = name.removeprefix("--").partition("=")
        if not has_value:
            if not rest:
                raise ConfigError([f"{name}: a value is missing; write {name} VALUE"])
            value = rest.pop(0)
        pairs.append((key, value))
    return pairs


def _keys_help(task: Task[Any]) -> str:
    rows = [(f"--{key}", default, text) for key, default, text in describe(task.config)]
    lines = [f"{key} [{default}]  {text}" for key, default, text in rows]
    return "\b\nConfig values, each an option that overrides the file:\n" + "\n".join(lines)

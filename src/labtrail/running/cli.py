"""The command line of each task: ``python -m projects.<task>``."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from labtrail.config import describe, load_config, to_yaml
from labtrail.errors import ConfigError, LabtrailError
from labtrail.running.launch import end_with_parent, is_worker, relaunch
from labtrail.running.signals import Interrupted, ignore_signals, stop_by_exception
from labtrail.running.task import Task

_FREE_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]}


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
        _run_task(named[words[0]], module, words[0], words[1:])
    else:
        _run_task(tasks[0], module, "", words, tuple(named))


def _run_task(task: Task[Any], module: str, word: str, arguments: list[str], others: Sequence[str] = ()) -> None:
    epilog = _keys_help(task)
    if others:
        epilog = f"Other tasks of this project: python -m {module} {{{'|'.join(others)}}}\n\n{epilog}"

    @click.command(name=f"python -m {module} {word}".strip(), context_settings=_FREE_ARGUMENTS, epilog=epilog)
    @click.option("--config", "path", type=Path, default=task.default, show_default=True, help="YAML file of values.")
    @click.option("--again", type=bool, is_flag=False, flag_value=True, default=False, metavar="[true]",
                  help="Run anew although a run of this config and data has finished.")  # fmt: skip
    @click.option("--processes", type=click.IntRange(1), help="Processes on this machine; started here if needed.")
    @click.option("--timeout", type=click.FloatRange(1), default=600.0, show_default=True, metavar="SECONDS",
                  help="Silence after which a process that does not answer the others counts as lost.")  # fmt: skip
    @click.option("--register", default="", metavar="NAME",
                  help="Name in the model registry for the run's best weights.")  # fmt: skip
    @click.option("--print-config", is_flag=True, help="Print the merged config as YAML and stop.")
    @click.pass_context
    def command(
        context: click.Context,
        path: Path,
        again: bool,
        processes: int | None,
        timeout: float,
        register: str,
        print_config: bool,
    ) -> int:
        # Loading MLflow takes seconds: a typo is answered, and a config printed, before that.
        config = load_config(task.config, path, overrides_of(context.args))
        if print_config:
            click.echo(to_yaml(config), nl=False)
            return 0
        if processes is not None and processes > 1 and not is_worker() and not _under_launcher():
            relaunch(module, [*([word] if word else []), *arguments], processes)
        from labtrail.running.execute import Options, execute

        return execute(task, config, Options(again, processes, timeout, register))

    command.help = f"Runs the task {task.name}; its results go to the MLflow experiment {task.experiment_name!r}."
    command_line(command, arguments)


def command_line(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Runs a click command as this process; errors that a user can mend become lines, not tracebacks."""
    _start()
    stop_by_exception()
    end_with_parent()
    sys.exit(_guarded(command, arguments))


def _under_launcher() -> bool:
    return "ACCELERATE_MIXED_PRECISION" in os.environ


def _start() -> None:
    """Progress goes to standard error, one line at a time; libraries speak up from warnings on."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("labtrail").setLevel(logging.INFO)


def _guarded(command: click.Command, arguments: Sequence[str] | None) -> int:
    """Runs a click command; errors that a user can mend become lines on standard error."""
    try:
        return command.main(args=arguments, standalone_mode=False) or 0
    except click.ClickException as error:
        return _refused(error.format_message(), error.exit_code)
    except Interrupted as interruption:
        ignore_signals()
        if "MLFLOW_RUN_ID" in os.environ:
            from labtrail.running.run_status import abandon

            abandon(str(interruption))
        return interruption.exit_status
    except LabtrailError as error:
        return _refused(str(error), error.exit_status)


def _refused(message: str, status: int) -> int:
    for line in message.splitlines():
        click.echo(f"error: {line}", err=True)
    if "MLFLOW_RUN_ID" in os.environ:
        from labtrail.running.run_status import refuse

        refuse(message)
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

"""``labtrail check resume|repeat TASK``: tries out on a task what labtrail promises of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labtrail.config import load_config
from labtrail.running.cli import FREE_ARGUMENTS, HELP, LabCommand, LabPath, overrides_of
from labtrail.running.registry import task_named
from labtrail.store import contract

if TYPE_CHECKING:
    from labtrail.running.resume_check import Difference, Trial
    from labtrail.running.task import Task


@click.group(context_settings=HELP)
def command() -> None:
    """Tries out on one's own code what labtrail promises: that it repeats, and that it survives kills to the bit.

    Nothing of it goes to the store.
    """


_CONFIG = click.option("--config", "path", type=LabPath(), help="YAML file of values; default: the task's own.")
_BOUNDARIES = click.option(
    "--boundaries",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="How many states it is followed over; config values may make it shorter.",
)


@command.command(cls=LabCommand, name="resume", context_settings=FREE_ARGUMENTS)
@click.argument("name", metavar="TASK")
@_CONFIG
@_BOUNDARIES
@click.pass_context
def resume(context: click.Context, name: str, path: Path | None, boundaries: int) -> int:
    """Runs the beginning of TASK whole, then again, killed at every state that it saves, and compares all numbers.

    Values of its config follow as options. What labtrail would warn of counts as a fault here. Exit status 0: every
    metric and tensor is the same to the bit; 1: not, or something that changes is not kept.
    """
    from labtrail.running import resume_check

    task, config = _wanted(name, path, context.args)
    whole = resume_check.through(task, config, boundaries)
    click.echo(f"whole:    {_summary(whole)}")
    if whole.error:
        return _failed(whole)
    resume_check.require_boundaries(whole, task.name)
    killed = resume_check.killed_everywhere(task, config, len(whole.boundaries))
    click.echo(f"killed:   {killed.restarts} times with SIGKILL, each time continued by a new process")
    if killed.error:
        return _failed(killed)
    difference = resume_check.first_difference(whole, killed)
    if difference is None and not whole.findings:
        click.echo("verdict:  goes on to the bit")
        return contract.DONE
    _tell(difference, whole, "goes on to the bit here, but would not everywhere")
    if difference is not None and not whole.findings:
        again = resume_check.first_difference(whole, resume_check.through(task, config, boundaries))
        click.echo(f"cause:    {_without_finding(again)}")
    return contract.FAILED


@command.command(cls=LabCommand, name="repeat", context_settings=FREE_ARGUMENTS)
@click.argument("name", metavar="TASK")
@_CONFIG
@_BOUNDARIES
@click.pass_context
def repeat(context: click.Context, name: str, path: Path | None, boundaries: int) -> int:
    """Runs the beginning of TASK twice, in processes of their own, and compares all numbers.

    Exit status 0: every metric and tensor is the same to the bit; 1: not.
    """
    from labtrail.running import resume_check

    task, config = _wanted(name, path, context.args)
    first = resume_check.through(task, config, boundaries)
    click.echo(f"first:    {_summary(first)}")
    if first.error:
        return _failed(first)
    second = resume_check.through(task, config, boundaries)
    click.echo(f"second:   {_summary(second)}")
    difference = resume_check.first_difference(first, second)
    if difference is None and not second.error:
        click.echo("verdict:  repeats to the bit")
        return contract.DONE
    if second.error:
        return _failed(second)
    _tell(difference, first, "")
    click.echo(
        "cause:    not known; what comes in question: a generator that was seeded by the clock, the order of a set, "
        "threads, a kernel that sums in no fixed order"
    )
    return contract.FAILED


def _wanted(name: str, path: Path | None, arguments: list[str]) -> "tuple[Task[Any], Any]":
    """The task, and its config with names of runs resolved; the data are read, and refused, as at a start."""
    task = task_named(name)
    config = task.resolve(load_config(task.config, path or task.default, overrides_of(arguments)))
    list(task.sources(config))
    return task, config


def _summary(trial: "Trial") -> str:
    names = {name for _, _, name in trial.metrics}
    end = ", to its end" if trial.ended else ""
    return f"{len(trial.boundaries)} states, {len(names)} metrics{end}"


def _failed(trial: "Trial") -> int:
    click.echo(f"verdict:  failed:\n{trial.error}")
    return contract.FAILED


def _tell(difference: "Difference | None", whole: "Trial", otherwise: str) -> None:
    if difference is None:
        click.echo(f"verdict:  {otherwise}")
    else:
        where = f"behind the state of number {difference.after}" if difference.after else "before the first state"
        click.echo(f"verdict:  differs {where}: {difference.words}")
    for finding in whole.findings:
        click.echo(f"cause:    {finding}")


def _without_finding(again: "Difference | None") -> str:
    if again is not None:
        return f"the task does not even repeat without a kill ({again.words}); see labtrail check repeat"
    return (
        "not seen from outside; what comes in question: a sum or a list that lives over several Records and was not "
        "given to run.epochs, something a module keeps besides its parameters and buffers, a file that is read back"
    )

"""``labtrail diff RUN RUN`` or ``labtrail diff RUN .``: config, code by function, packages, data, machine, numbers."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract

if TYPE_CHECKING:
    from labtrail.query.selection import RunRow

_HERE = "."
_MOST_LINES = 40
_RESULTS = ("test/", "best/")


@click.command(cls=LabCommand, name="diff", context_settings=HELP)
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN|.")
@click.option("--all-lines", is_flag=True, help="Every line of code that differs, however many there are.")
def command(first: str, second: str, all_lines: bool) -> int:
    """Tells in what two runs differ, or a run and the code of this folder (a dot).

    Exit status 0: in nothing that decides a number; 1: they differ.
    """
    from labtrail.query.find import run_by_id

    left = run_by_id(first)
    if second == _HERE:
        return contract.FAILED if _tell_code(left, None, all_lines) else contract.DONE
    right = run_by_id(second)
    differs = [
        _tell("config", _values(left, right)),
        _tell_code(left, right, all_lines),
        _tell_packages(left, right),
        _tell("data", _data(left, right)),
        _tell_numbers(left, right),
    ]
    return contract.FAILED if any(differs) else contract.DONE


def _tell(what: str, changes: Mapping[str, str]) -> bool:
    shown = "".join(f"\n  {name}: {change}" for name, change in changes.items()) or " the same"
    click.echo(f"{what}:{shown}")
    return bool(changes)


def _values(left: "RunRow", right: "RunRow") -> dict[str, str]:
    from labtrail.running.provenance.machine import arrows

    prefix = contract.CONFIG_PREFIX
    then, now = (
        {name.removeprefix(prefix): value for name, value in run.params.items() if name.startswith(prefix)}
        for run in (left, right)
    )
    return arrows(then, now)


def _data(left: "RunRow", right: "RunRow") -> dict[str, str]:
    from labtrail.query.find import data_by_context
    from labtrail.running.provenance.machine import arrows

    return arrows(data_by_context(left.run_id), data_by_context(right.run_id))


def _tell_code(left: "RunRow", right: "RunRow | None", all_lines: bool) -> bool:
    """The functions that differ, with their lines; of this folder where there is no other run."""
    from labtrail.errors import DataError
    from labtrail.running.code_diff import present_side, side_of
    from labtrail.running.kept_code import kept_code

    try:
        kept = kept_code(left)
        then = side_of(kept)
        now = present_side(kept) if right is None else side_of(kept_code(right))
    except DataError as error:
        click.echo(f"code: unknown: {error}")
        return False
    change = then.change_to(now)
    if not any(change):
        click.echo("code: the same, as far as the task reaches it")
        return False
    click.echo(f"code: {change}")
    lines = list(_lines(then.lines_to(now, change)))
    shown = lines if all_lines else lines[:_MOST_LINES]
    click.echo("\n".join(shown))
    if len(lines) > len(shown):
        click.echo(f"  and {len(lines) - len(shown)} more lines (--all-lines)")
    return True


def _lines(texts: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    import difflib

    for name, (before, after) in texts.items():
        yield f"  {name}"
        pairs = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
        yield from (f"    {line}" for line in pairs if not line.startswith(("---", "+++", "@@")))


def _tell_packages(left: "RunRow", right: "RunRow") -> bool:
    from labtrail.errors import DataError
    from labtrail.running.kept_code import kept_code
    from labtrail.running.provenance.machine import differences

    try:
        packages, facts = differences(kept_code(left).environment(), kept_code(right).environment())
    except DataError as error:
        click.echo(f"packages, machine: unknown: {error}")
        return False
    return any([_tell("packages", packages), _tell("machine", facts)])


def _tell_numbers(left: "RunRow", right: "RunRow") -> bool:
    from labtrail.query.compare import compare_numbers, compare_weights, numbers_of, weights_of
    from labtrail.running.provenance.machine import arrows
    from labtrail.running.repeat import measured_of

    then, now = left.run_id, right.run_id
    measured = measured_of(left)
    numbers = compare_numbers(numbers_of(then, measured), numbers_of(now, measured))
    weights = compare_weights(weights_of(then), weights_of(now))
    click.echo(f"numbers: {numbers}")
    first, second = (
        {name: value for name, value in run.metrics.items() if name.startswith(_RESULTS)} for run in (left, right)
    )
    for name, change in arrows(first, second).items():
        click.echo(f"  {name}: {change}")
    click.echo(f"weights: {weights}")
    return not (numbers.same and weights.same)

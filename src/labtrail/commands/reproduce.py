"""``labtrail reproduce RUN``: runs it again by its own code, and says whether the numbers are the same."""

from typing import TYPE_CHECKING, Any

import click

from labtrail.errors import DataError
from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract

if TYPE_CHECKING:
    from collections.abc import Mapping

    from labtrail.running.kept_code import KeptCode
    from labtrail.running.repeat import Place


@click.command(cls=LabCommand, name="reproduce", context_settings=HELP)
@click.argument("run_id", metavar="RUN")
@click.option(
    "--times", type=click.IntRange(1), default=1, show_default=True, help="Repetitions; several show a range."
)
@click.option("--epochs", type=click.IntRange(1), help="Only the head of the curve: end after so many records.")
@click.option("--tolerance", type=click.FloatRange(0), help="Relative difference of a number that counts as close.")
@click.option(
    "--env",
    "environment",
    type=click.Choice(["present", "recorded"]),
    default="present",
    show_default=True,
    help="Packages: those of this environment, or those of the run, installed beside it.",
)
def command(run_id: str, times: int, epochs: int | None, tolerance: float | None, environment: str) -> int:
    """Runs RUN again by the code, config and data that it had, and compares every number and weight.

    The new run stands beside the old one and counts as no result. Exit status 0: the same to the bit, within the range
    of several repetitions, or close by the tolerance that you name; 1: it differs; 2: it cannot be judged, since its
    code was not kept or its data are others.
    """
    from labtrail.query.find import run_by_id
    from labtrail.running import repeat
    from labtrail.running.kept_code import kept_code
    from labtrail.running.provenance import environments

    run = run_by_id(run_id)
    run_id = run.run_id
    end = run.end
    if end != "FINISHED" and not epochs:
        raise DataError(f"run {run_id} is {end}, not FINISHED; --epochs N compares the head of its curve")
    if contract.CODES in run.tags:
        raise DataError(f"run {run_id} was computed by several codes ({run.tags[contract.CODES]}); no one gives it")
    kept = kept_code(run)
    place = _place_of(kept)
    click.echo(f"code:     {place.words}")
    if kept.source.missing:
        click.echo(f"          not kept then: {', '.join(kept.source.missing)}")
    if environment == "recorded":
        place = place._replace(python=str(environments.installed(kept.environment())))
    comparisons = []
    for _ in range(times):
        repetition = repeat.repeat(kept, run, place, epochs or 0)
        comparisons.append(repeat.compare(run_id, repetition, head=bool(epochs)))
        click.echo(f"run:      {repetition}")
    _tell_machine(kept.environment(), kept_code(run_by_id(repetition)).environment())
    click.echo(f"numbers:  {comparisons[0].numbers}")
    click.echo(f"weights:  {'not compared' if epochs else comparisons[0].tensors}")
    verdict, why = repeat.verdict_of(comparisons, tolerance)
    repeat.note_verdict(run_id, repetition, verdict, why, epochs or 0)
    head = f" (the first {epochs} records)" if epochs else ""
    click.echo(f"verdict:  {verdict}{head}{'' if verdict in ('to the bit', 'differs') else f': {why}'}")
    if verdict == "differs" and times == 1:
        click.echo("          --times 3 shows how far runs of today lie apart; labtrail diff shows what differs")
    return {"differs": contract.FAILED, "cannot be judged": contract.REFUSED}.get(verdict, contract.DONE)


def _place_of(kept: "KeptCode") -> "Place":
    """The best place where the run's code is the same as it was.

    Raises:
        DataError: there is none.
    """
    from labtrail.running.repeat import Place

    problems = []
    for words, roots in kept.places():
        code = kept.code_in(roots)
        if kept.rule != code.rule:
            return Place(f"{words}; its definitions were counted by an earlier rule", roots)
        if code.digest == kept.code:
            return Place(f"{words}; {len(code.definitions)} definitions, the same as then", roots)
        problems.append(f"{words} has other code ({code.digest}, then {kept.code})")
    raise DataError(
        f"run {kept.run_id} cannot be repeated: its code is nowhere whole: {'; '.join(problems) or 'none was kept'}"
    )


def _tell_machine(then: "Mapping[str, Any]", now: "Mapping[str, Any]") -> None:
    from labtrail.running.provenance.machine import COMPUTING, differences

    packages, facts = differences(then, now)
    computing = {name: change for name, change in packages.items() if name in COMPUTING}
    others = len(packages) - len(computing)
    words = [f"{name} {change}" for name, change in computing.items()]
    words += [f"{others} that compute nothing"] if others else []
    click.echo(f"packages: {', '.join(words) or 'the same'}")
    click.echo(f"machine:  {'; '.join(f'{name} {change}' for name, change in facts.items()) or 'the same kind'}")

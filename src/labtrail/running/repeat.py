"""Repeating a run, by the code that it kept or by the present one, and telling whether the two are the same.

Why: docs/decisions/052-a-repetition-is-a-run-beside.md
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from labtrail.errors import ConfigError, DataError, LabtrailError
from labtrail.query.compare import (
    Numbers,
    Point,
    Tensors,
    compare_numbers,
    compare_weights,
    numbers_of,
    weights_of,
    within,
)
from labtrail.query.find import artifact, run_by_id, runs_tagged
from labtrail.query.selection import RunRow
from labtrail.running.kept_code import KeptCode
from labtrail.running.provenance import pins
from labtrail.running.registry import task_named
from labtrail.running.run_status import set_tags
from labtrail.store import contract, lab

# What belongs to the process that asks, and not to the repetition.
_FOREIGN = ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", contract.CAMPAIGN_VARIABLE)

_REPEATED = "Repeated"

Verdict = Literal["to the bit", "within the noise", "close", "differs", "cannot be judged"]


class Place(NamedTuple):
    """A tree of code from which a run can be repeated.

    Attributes:
        words: what it is.
        roots: folders that belong on the import path; empty: the present code.
        python: the interpreter.
    """

    words: str
    roots: Sequence[Path] = ()
    python: str = sys.executable


def repeat(kept: KeptCode, run: RunRow, place: Place, records: int = 0) -> str:
    """Runs a run's work again, beside it; what it prints is passed on.

    Args:
        kept: what the run kept of its source.
        run: which is repeated.
        place: the code.
        records: after how many it ends; 0: at its end.

    Returns:
        Id of the new run.

    Raises:
        LabtrailError: it was refused (other data, for instance) or failed; its own words stand above.
    """
    before = {other.run_id for other in runs_tagged(contract.REPRODUCES, run.run_id)}
    words = _command(kept, run)
    done = subprocess.run([place.python, *words], env=_environment(kept, run, place, records), check=False)
    new = [other for other in runs_tagged(contract.REPRODUCES, run.run_id) if other.run_id not in before]
    if done.returncode == contract.REFUSED or not new:
        raise DataError(f"run {run.run_id} cannot be repeated here; the reason stands above")
    if new[0].end != "FINISHED" and not records:
        raise LabtrailError(
            f"run {run.run_id}: its repetition {new[0].run_id} has not finished "
            f"({new[0].tags.get(contract.STATUS_REASON, f'exit status {done.returncode}')})"
        )
    return new[0].run_id


def _command(kept: KeptCode, run: RunRow) -> list[str]:
    """Words after ``python``; a script that has opened its run by itself is started as it was."""
    if kept.command[-1:] == (contract.WHOLE_COMMAND,):
        return list(kept.command[:-1])
    words = [*kept.command, "--config", str(artifact(run.run_id, contract.CONFIG_FILE).absolute())]
    processes = int(run.tags.get(contract.PROCESSES, "1"))
    return words + (["--processes", str(processes)] if processes > 1 else [])


def _environment(kept: KeptCode, run: RunRow, place: Place, records: int) -> dict[str, str]:
    facts = kept.environment()
    variables = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # Sums of floats depend on the number of threads.
    variables |= {"OMP_NUM_THREADS": str(facts["threads"]), **facts["variables"]}
    variables |= {contract.REPRODUCES_VARIABLE: run.run_id}
    variables |= {contract.RECORDS_VARIABLE: str(records)} if records else {}
    if place.roots:
        folder = lab.state_folder().absolute() / "code"
        copy = next(path for path in (place.roots[0], *place.roots[0].parents) if path.parent == folder)
        variables |= pins.variables(copy, *place.roots)
    return variables


class Comparison(NamedTuple):
    """A run beside its repetition; the members of a bundle count with it.

    Attributes:
        numbers, tensors: how they compare.
        then, now: all numbers of both, the metrics of members with their ids before them.
    """

    numbers: Numbers
    tensors: Tensors
    then: Mapping[Point, float]
    now: Mapping[Point, float]

    @property
    def same(self) -> bool:
        """Whether numbers and tensors are equal to the bit."""
        return self.numbers.same and self.tensors.same


def compare(run_id: str, repetition: str, head: bool = False) -> Comparison:
    """Compares a run with its repetition.

    Args:
        run_id: of the run.
        repetition: id of the other one.
        head: only as far as the repetition went.
    """
    measured = measured_of(run_by_id(run_id))
    then, now = numbers_of(run_id, measured), numbers_of(repetition, measured)
    weights_then, weights_now = dict(weights_of(run_id)), dict(weights_of(repetition))
    for member in runs_tagged(contract.PARENT, repetition):
        original = member.tags.get(contract.REPRODUCES)
        if original is not None:
            then |= _marked(original, numbers_of(original))
            now |= _marked(original, numbers_of(member.run_id))
            weights_then |= {f"{original[:8]} {name}": path for name, path in weights_of(original).items()}
            weights_now |= {f"{original[:8]} {name}": path for name, path in weights_of(member.run_id).items()}
    tensors = Tensors(0, (), 0.0) if head else compare_weights(weights_then, weights_now)
    return Comparison(compare_numbers(then, now, head), tensors, then, now)


def measured_of(run: RunRow) -> Sequence[str]:
    """Beginnings of the metrics that a run's task measures of the machine, where this lab knows the task."""
    try:
        return task_named(run.tags.get(contract.TASK, "")).measured
    except ConfigError:
        return ()


def _marked(run_id: str, numbers: Mapping[Point, float]) -> dict[Point, float]:
    return {Point(point.step, f"{run_id[:8]} {point.metric}"): value for point, value in numbers.items()}


def verdict_of(comparisons: Sequence[Comparison], tolerance: float | None) -> tuple[Verdict, str]:
    """What follows from one repetition or several, and why.

    Args:
        comparisons: of the same run, each with a repetition of its own.
        tolerance: relative difference of a number that somebody takes as close; None: none.
    """
    first = comparisons[0]
    if not first.numbers.count and not first.tensors.count:
        return "cannot be judged", "the run has neither numbers nor weights"
    if all(comparison.same for comparison in comparisons):
        return "to the bit", ""
    if len(comparisons) > 1:
        outside = list(within(first.then, [comparison.now for comparison in comparisons]))
        if not outside:
            return "within the noise", f"every number lies within the range of {len(comparisons)} runs of today"
    if tolerance is not None and all(_is_close(comparison, tolerance) for comparison in comparisons):
        return "close", f"no number differs by more than {tolerance:g} of itself"
    return "differs", f"numbers: {first.numbers}; weights: {first.tensors}"


def _is_close(comparison: Comparison, tolerance: float) -> bool:
    if comparison.then.keys() != comparison.now.keys():
        return False
    largest = comparison.numbers.largest
    return largest is None or largest[0] <= tolerance


def note_verdict(run_id: str, repetition: str, verdict: Verdict, why: str, records: int) -> None:
    """Writes a verdict onto the run and its repetition."""
    note: dict[str, str | int] = {"verdict": verdict, "why": why, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    note |= {"records": records} if records else {}
    for noted, other in ((run_id, repetition), (repetition, run_id)):
        page = run_by_id(noted).tags.get(contract.NOTE, "").partition(_REPEATED)[0].rstrip()
        words = f"{_REPEATED} on {note['date']}, {verdict}: run `{other}`."
        tags = {contract.REPRODUCED: json.dumps({**note, "run": other}), contract.NOTE: f"{page} {words}".strip()}
        set_tags(noted, tags)

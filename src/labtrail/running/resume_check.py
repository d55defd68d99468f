"""Whether a task repeats, and whether it goes on to the bit after a kill at every boundary: tried out, not promised.

A task is run in processes of its own, without a store, over its first boundaries: places at which its state is saved.
Once it runs through; once it is killed with SIGKILL at each boundary and goes on in a new process. Every metric and
every tensor of each boundary is compared.

Why: docs/decisions/057-a-promise-to-try-out.md
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch

from labtrail.errors import CheckpointError, LabtrailError
from labtrail.record import Record
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.launch import make_accelerator
from labtrail.running.run import Run
from labtrail.running.state import leaves, read_state
from labtrail.running.task import Task
from labtrail.running.watch import Watch

_RUN_ID = "0" * 32
_TIMEOUT_S = 600.0


class Boundary(NamedTuple):
    """A place at which a state was saved.

    Attributes:
        place: epochs that are done, and steps of the one at work.
        tensors: digest of each tensor of the state by name, and of what else is in it.
    """

    place: tuple[int, int]
    tensors: Mapping[str, str]


class Trial(NamedTuple):
    """What one or several processes have done of a task.

    Attributes:
        metrics: (number of boundaries before it, step, name) -> each value in hexadecimal, as often as it was yielded.
        boundaries: in their order.
        findings: of the watch.
        error: what ended it before its end; empty: nothing did.
        ended: whether the task came to its end.
        restarts: how many of the processes were killed at a boundary.
    """

    metrics: Mapping[tuple[int, int, str], Sequence[str]]
    boundaries: Sequence[Boundary]
    findings: Sequence[str]
    error: str
    ended: bool
    restarts: int


class Difference(NamedTuple):
    """The first thing that differs between two trials.

    Attributes:
        words: where, what, and both values.
        after: number of the boundary before it; 0: it is before the first one.
    """

    words: str
    after: int


class _Noting(Checkpoint):
    """A checkpoint that says when a state is durable."""

    saved: Callable[[tuple[int, int], Path], None]

    def save(self, record: Record, first: Callable[[], None] = lambda: None) -> None:
        before = self.saved_at
        super().save(record, first)
        if self.saved_at != before:
            self.flush()
            self.saved(self.saved_at, self.folder / "last")


def through(task: Task[Any], config: Any, boundaries: int) -> Trial:
    """Runs the beginning of a task in one process, up to so many boundaries."""
    with tempfile.TemporaryDirectory(prefix="labtrail-check-") as folder:
        _in_process(lambda notes: _work(task, config, Path(folder), boundaries, notes, kill=False), Path(folder))
        return _read(Path(folder), 0, task.measured)


def killed_everywhere(task: Task[Any], config: Any, boundaries: int) -> Trial:
    """Runs the beginning of a task in one process after the other, each killed at its first boundary."""
    with tempfile.TemporaryDirectory(prefix="labtrail-check-") as folder:
        restarts = 0
        for _ in range(boundaries):
            status = _in_process(lambda notes: _work(task, config, Path(folder), 1, notes, kill=True), Path(folder))
            if status != -signal.SIGKILL:
                break
            restarts += 1
        else:
            # The Records behind the last boundary, up to the next one.
            _in_process(lambda notes: _work(task, config, Path(folder), 0, notes, kill=False), Path(folder))
        return _read(Path(folder), restarts, task.measured)


def first_difference(whole: Trial, other: Trial) -> Difference | None:
    """What differs first between two trials, in the order of their boundaries; None: nothing does."""
    yielded: dict[tuple[int, str], list[str]] = {}
    for (_, step, name), values in other.metrics.items():
        yielded.setdefault((step, name), []).extend(values)
    for number in range(len(whole.boundaries) + 1):
        expected = {key[1:]: values[0] for key, values in whole.metrics.items() if key[0] == number}
        words = _metrics(expected, yielded)
        if not words and number < len(whole.boundaries):
            words = _states(whole.boundaries[number], other.boundaries[number : number + 1])
        if words:
            return Difference(words, number)
    return None


def _metrics(expected: Mapping[tuple[int, str], str], yielded: Mapping[tuple[int, str], Sequence[str]]) -> str:
    for (step, name), value in expected.items():
        values = yielded.get((step, name), ())
        if not values:
            return f"step {step}, {name}: {_number(value)} was not yielded again"
        if differing := [again for again in values if again != value]:
            return f"step {step}, {name}: {_number(differing[0])} instead of {_number(value)}"
    return ""


def _number(value: str) -> str:
    return repr(float.fromhex(value))


def _states(expected: Boundary, others: Sequence[Boundary]) -> str:
    if not others:
        return f"the state of {_place(expected.place)} was not saved again"
    other = others[0]
    if expected.place != other.place:
        return f"the state of {_place(expected.place)} was saved as that of {_place(other.place)}"
    names = sorted(expected.tensors.keys() | other.tensors.keys())
    differing = [name for name in names if expected.tensors.get(name) != other.tensors.get(name)]
    if not differing:
        return ""
    some = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
    return f"state of {_place(expected.place)}: {len(differing)} of {len(names)} parts differ: {some}"


def _place(place: tuple[int, int]) -> str:
    return f"epoch {place[0]}" + (f", step {place[1]}" if place[1] else "")


def _in_process(work: Callable[[Callable[[Any], None]], None], folder: Path) -> int:
    """Does work in a process that is forked from this one; its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with (folder / "notes.jsonl").open("a", encoding="utf-8") as notes:
            status = _guarded(work, lambda note: print(json.dumps(note), file=notes, flush=True))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _guarded(work: Callable[[Callable[[Any], None]], None], note: Callable[[Any], None]) -> int:
    try:
        work(note)
    except LabtrailError as error:
        note({"error": str(error)})
        return 1
    except BaseException:
        note({"error": traceback.format_exc()})
        return 1
    return 0


def _work(
    task: Task[Any], config: Any, folder: Path, boundaries: int, note: Callable[[Any], None], *, kill: bool
) -> None:
    """Drives the task from where its checkpoints stand over so many boundaries."""
    accelerator = make_accelerator(config.compute, 1, _TIMEOUT_S)
    left = boundaries

    def saved(place: tuple[int, int], state: Path) -> None:
        nonlocal left
        if not left:
            raise _Enough
        left -= 1
        note({"place": place, "tensors": _digests(state)})
        if kill and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = _Noting(folder / "checkpoints", accelerator, score=task.score, settings=config.checkpoint)
    checkpoint.saved = saved
    run = Run(_RUN_ID, accelerator, checkpoint, Watch(lambda text: note({"finding": text})))
    try:
        for record in _records(task, config, run):
            note({"step": record.step, "metrics": {name: float(v).hex() for name, v in record.metrics.items()}})
    except _Enough:
        return
    note({"ended": True})


class _Enough(BaseException):
    """So many boundaries have been seen as were asked for, and one more, up to which Records count."""


def _records(task: Task[Any], config: Any, run: Run) -> Iterator[Record]:
    records = task.records(config, run)
    run.watch.follow(records)
    with run.watch, closing(records):
        for record in records:
            run.record_taken()
            run.checkpoint.note_best(record)
            yield record
            run.checkpoint.save(record)
    run.checkpoint.finish()


def _digests(folder: Path) -> dict[str, str]:
    generators = torch.load(folder / "random_states_0.pt", weights_only=True)
    parts = leaves({**read_state(folder), "generators": generators})
    return {name: _digest(part) for name, part in parts.items()}


def _digest(part: Any) -> str:
    if not isinstance(part, torch.Tensor):
        return hashlib.sha256(repr(part).encode()).hexdigest()[:16]
    dense = part.to_dense() if part.layout != torch.strided else part
    content = dense.contiguous().flatten().view(torch.uint8).numpy().tobytes() if dense.numel() else b""
    return hashlib.sha256(f"{dense.dtype}{tuple(dense.shape)}".encode() + content).hexdigest()[:16]


def _read(folder: Path, restarts: int, measured: Sequence[str]) -> Trial:
    metrics: dict[tuple[int, int, str], list[str]] = {}
    boundaries, findings, error, ended = [], [], "", False
    path = folder / "notes.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        note = json.loads(line)
        for name, value in note.get("metrics", {}).items():
            if not name.startswith(tuple(measured) or ("\0",)):
                metrics.setdefault((len(boundaries), note["step"], name), []).append(value)
        if "place" in note:
            boundaries.append(Boundary(tuple(note["place"]), note["tensors"]))
        if "finding" in note and note["finding"] not in findings:
            findings.append(note["finding"])
        error = error or note.get("error", "")
        ended = ended or note.get("ended", False)
    return Trial(metrics, boundaries, findings, error, ended, restarts)


def require_boundaries(trial: Trial, task: str) -> None:
    """
    Raises:
        CheckpointError: the task saved no state at all, so that there is nothing to go on from.
    """
    if not trial.boundaries and not trial.error:
        raise CheckpointError(
            f"check: task {task} saved no state in its first Records: it calls neither run.epochs nor run.restore, or "
            "never advances its progress; a killed run of it starts over"
        )

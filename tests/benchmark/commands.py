"""What living with it costs: CPU seconds of whole commands from a fresh interpreter, and of a campaign's cells."""

import resource
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmark.timing import Row
from tests.workspace import Workspace

_REPEATS = 5
_INSTANT_S, _CELL_S, _KEPT_S = 0.6, 1.5, 0.4
# Of the time that importing torch takes.
_ALREADY_DONE = 1.5
_FEW, _MANY = 4, 24
_TASKS = '[tool.labtrail]\ntasks = ["tests.toy.__main__"]\n'
_ROUND = """
name: {name}
task: toy
groups: [{{name: all, config: toy.yaml, values: {{epochs: 1}}, grid: {{seed: {seeds}}}}}]
"""


def rows() -> Iterator[Row]:
    """Commands that answer without work, and what each cell of a campaign takes beside its training."""
    with tempfile.TemporaryDirectory() as name:
        place = Workspace(Path(name))
        for what, words, status in (
            ("a typo (`labtrail run spotre`)", ("run", "spotre"), 2),
            ("`labtrail --help`", ("--help",), 0),
            ("`labtrail run spoter --help`", ("run", "spoter", "--help"), 0),
            ("`labtrail run spoter --print-config`", ("run", "spoter", "--print-config"), 0),
        ):
            seconds = _median(place, ("labtrail", *words), status)
            yield Row(f"{what}, CPU s beside the promise", seconds, _INSTANT_S, _INSTANT_S / seconds, 1.0)
        yield _already_done(place)
        kept = _keeping_source(place)
        yield Row("keeping the source of a run, CPU s beside the promise", kept, _KEPT_S, _KEPT_S / kept, 1.0)
        (place.folder / "pyproject.toml").write_text(_TASKS)
        place.write("toy.yaml", "{}")
        cell = _a_cell(place)
        yield Row("a cell of a campaign, CPU s beside the promise", cell, _CELL_S, _CELL_S / cell, 1.0)


def _median(place: Workspace, words: Sequence[str], status: int = 0) -> float:
    """CPU seconds of a command; it runs once before, so that bytecode is there."""
    _spent(place, words, status)
    return statistics.median(_spent(place, words, status) for _ in range(_REPEATS))


def _spent(place: Workspace, words: Sequence[str], status: int = 0) -> float:
    """CPU seconds of a command and all that it has waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        place.command(*words), cwd=place.folder, env=place.environment, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == status, f"{' '.join(words)}: status {done.returncode}\n{done.stderr}"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _already_done(place: Workspace) -> Row:
    words = ("labtrail", "run", "spoter", "--config", "tiny.yaml", "--train.milestones", "[]")
    _spent(place, words)
    pairs = [(_spent(place, words), _spent(place, ("python", "-c", "import torch"))) for _ in range(_REPEATS)]
    ours, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(torch / done for done, torch in pairs)
    return Row("a run that is already done (import torch)", ours, reference, ratio, 1 / _ALREADY_DONE)


def _keeping_source(place: Workspace) -> float:
    """What a run of changed code in a git repository spends more than one that keeps no code."""
    place.write(".gitignore", "mlruns/\nmlflow.db*\n.labtrail/\n__pycache__/\ndata/\n")
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "bench")):
        subprocess.run(["git", *who, *words], cwd=place.folder, check=True)
    place.write("projects/new.py", "NEW = 1\n")
    words = ("labtrail", "run", "spoter", "--config", "tiny.yaml", "--train.epochs", "1", "--train.milestones", "[]")
    spent: dict[str, list[float]] = {"on": [], "off": []}
    for seed in range(_REPEATS + 1):
        for state, seconds in spent.items():
            place.variables["LABTRAIL_SOURCE"] = state
            seconds.append(_spent(place, (*words, "--seed", str(2 * seed + (state == "on")))))
    del place.variables["LABTRAIL_SOURCE"]
    # The first ones pack the copy, as the first cell of a round does.
    on, off = (statistics.median(seconds[1:]) for seconds in spent.values())
    return max(on - off, 0.01)


def _a_cell(place: Workspace) -> float:
    """From start to exit, in a campaign of many cells and of few: the campaign itself cancels out."""
    spent = []
    for count in (_FEW, _MANY):
        place.write(f"{count}.yaml", _ROUND.format(name=f"round{count}", seeds=list(range(100 * count, 101 * count))))
        spent.append(_spent(place, ("labtrail", "campaign", "run", "--config", f"{count}.yaml")))
    return (spent[1] - spent[0]) / (_MANY - _FEW)

"""The code of a round or study: pinned when it begins, so that no edit splits it; asked about once when it has changed.

Why: docs/decisions/051-a-round-runs-from-its-pin.md
"""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from labtrail.errors import CodeError, DataError
from labtrail.files import write_atomically
from labtrail.running.processes import this_program
from labtrail.running.provenance import pins
from labtrail.running.provenance.code import CodeDigest, change_between, code_from
from labtrail.running.provenance.source import take
from labtrail.running.provenance.sources import Folder
from labtrail.running.task import Task
from labtrail.running.work import present_code
from labtrail.store import lab

_log = logging.getLogger("labtrail")

_FILE = "pin.json"


class Answer(NamedTuple):
    """What a person has said about code that has changed since a round began.

    Attributes:
        keep: go on with the present code, and let what earlier code has done count.
        again: go on with the present code, and do again what earlier code has done.
        pinned: go on with the code that the round began with.
    """

    keep: bool = False
    again: bool = False
    pinned: bool = False


class Pin(NamedTuple):
    """The code that a round runs from.

    Attributes:
        folder: of the copy; None where no code may be kept: then it runs from the lab's files.
        code: what the cells' task reaches in it.
        path: file that records it.
        recorded: whether the round had it before.
    """

    folder: Path | None
    code: CodeDigest
    path: Path
    recorded: bool

    @property
    def variables(self) -> Mapping[str, str]:
        """What makes a process run from it."""
        return pins.variables(self.folder) if self.folder else {}

    def record(self) -> None:
        """From here on the round runs from this code."""
        if not self.recorded:
            content = {"source": self.folder.name if self.folder else "", "code": self.code.to_json()}
            write_atomically(self.path, json.dumps(content).encode())


def pin_of(
    folder: Path,
    what: str,
    task: Task[Any],
    configs: Iterable[BaseModel],
    answer: Answer,
    otherwise: str,
    *,
    ask: bool = True,
    begin: bool = True,
) -> Pin:
    """The code that a round runs from; may replace this process by one that runs from it.

    Args:
        folder: of the round's state.
        what: it is, with its name, in messages.
        task: that its cells run.
        configs: of its cells, as far as they are known.
        answer: to the question whether changed code counts.
        otherwise: the third way, beside keeping and pinning, in words.
        ask: whether there is somebody to answer; if not, the round goes on with its own code.
        begin: whether anything is to be started; if not, a round that has not begun takes no copy.

    Raises:
        CodeError: the code has changed since the round began, and nobody has said what follows.
        DataError: the copy of the code that the round began with is gone.
    """
    path, present = folder / _FILE, present_code(task, configs)
    if running := pins.current():
        return Pin(running, present, path, recorded=path.is_file())
    recorded = _read(path)
    if recorded is None:
        return _new_pin(path, present) if begin else Pin(None, present, path, recorded=False)
    source, code = recorded
    if code.digest == present.digest:
        return Pin(pins.unpacked(lab.state_folder(), source) if source else None, code, path, recorded=True)
    change = change_between(code, present)
    if answer.keep or answer.again:
        _log.info("%s goes on with the present code: %s", what, change)
        return _new_pin(path, present)
    if source and (answer.pinned or not ask):
        _log.info("%s goes on with the code that it began with; since then: %s", what, change)
        pins.enter(pins.unpacked(lab.state_folder(), source), [*this_program(), *sys.argv[1:]])
    raise CodeError(
        f"{what} has begun with other code: {change}; nothing was started: --pinned goes on with that code, "
        f"--keep goes on with the present one and counts what is done, {otherwise}"
    )


def _new_pin(path: Path, code: CodeDigest) -> Pin:
    state = lab.state_folder()
    source = take(code, lab.working_folder(), state)
    if source.missing:
        _log.warning("not everything that the code may need could be copied: %s", ", ".join(source.missing))
    folder = pins.unpacked(state, source.digest) if source.digest else None
    return Pin(folder, code, path, recorded=False)


def _read(path: Path) -> tuple[str, CodeDigest] | None:
    """Digest of the copy and code that a round began with, by today's rule; None if it has not begun."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_bytes())
        source, code = stored["source"], CodeDigest.from_json(stored["code"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: the code that this round began with cannot be read: {error}; remove it to pin the present one"
        ) from error
    if source and code.rule != CodeDigest("", {}).rule:
        code = code_from(code.roots, None, Folder([pins.unpacked(lab.state_folder(), source)]))
    return source, code

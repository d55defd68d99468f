"""Running from a kept copy of code, whatever becomes of the files that it was made of.

A process that does so finds the copy before anything else on its import path, and nothing of its current folder; its
children inherit that. Configs, data and store are still those of the lab's folder.

Why: docs/decisions/051-a-round-runs-from-its-pin.md
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from labtrail.errors import DataError
from labtrail.files import link_or_copy
from labtrail.running.provenance.source import COPY, PIN_VARIABLE, folder_of, unpack

_PATH, _SAFE = "PYTHONPATH", "PYTHONSAFEPATH"


def current() -> Path | None:
    """The copy that this process runs from; None for one that runs from the lab's files."""
    pin = os.environ.get(PIN_VARIABLE)
    return Path(pin) if pin else None


def unpacked(state: Path, digest: str) -> Path:
    """The folder of a copy that was kept, from which processes can run.

    Raises:
        DataError: the copy is gone, or damaged.
    """
    folder = state.absolute() / "code" / digest
    archive = folder_of(state, digest) / COPY
    if not folder.is_dir() and not archive.is_file():
        raise DataError(f"{archive}: the code that was kept is gone")
    unpack(archive, folder)
    return folder


def adopt(files: Sequence[Path], state: Path, digest: str) -> Path:
    """Takes in a copy that a run has kept as an artifact; the folder from which processes can run.

    Raises:
        DataError: it is damaged.
    """
    for file in files:
        target = folder_of(state, digest) / file.name
        if not target.exists():
            link_or_copy(file, target)
    return unpacked(state, digest)


def variables(folder: Path, *roots: Path) -> dict[str, str]:
    """What makes a process run from a copy, in addition to its other variables.

    Args:
        folder: of the copy.
        roots: folders in it that belong on the import path; none: the copy itself.
    """
    before = os.environ.get(_PATH, "").split(os.pathsep)
    further = [path for path in before if path and Path(path) != current()]
    paths = [str(root) for root in roots or (folder,)]
    return {_PATH: os.pathsep.join([*paths, *further]), _SAFE: "1", PIN_VARIABLE: str(folder)}


def inherited() -> Mapping[str, str]:
    """The variables of this process that make it run from a copy; empty if it does not."""
    return {name: os.environ[name] for name in (_PATH, _SAFE, PIN_VARIABLE)} if current() else {}


def enter(folder: Path, command: Sequence[str]) -> NoReturn:
    """Replaces this process by one that runs from a copy.

    Args:
        folder: of the copy.
        command: words after ``python``.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    environment = {**os.environ, **variables(folder)}
    os.execve(sys.executable, [sys.executable, *command], environment)  # noqa: S606 no shell is the point

"""Runs the scripts of users' cases as they are, each in a lab of its own, once for all tests that look at its lines."""

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.workspace import Workspace

SCRIPTS = Path(__file__).parent / "scripts"

# Subjects of the pieces of work that make the failing cases pass.
CODE = "A run is its code, too"
STATE = "Any training state, any loop"
USE = "Pick it up and use it"
HONEST = "Every sentence survives a hostile reader"
REMAT = "Never wrong in silence"
STORES = "Stores, paths and secrets"


class Output(NamedTuple):
    """What a script said."""

    status: int
    lines: tuple[str, ...]

    def line(self, beginning: str) -> str:
        """The one line that begins so."""
        found = [line for line in self.lines if line.startswith(beginning)]
        assert len(found) == 1, f"{len(found)} lines begin with {beginning!r}: {self.lines}"
        return found[0]


@cache
def output_of(script: str, *arguments: str, timeout: float = 500) -> Output:
    """Runs ``python SCRIPT`` in a fresh lab; its lines on standard output, then those on standard error."""
    folder = Path(tempfile.mkdtemp(prefix="labtrail-case-"))
    try:
        return run_in(Workspace(folder), script, *arguments, timeout=timeout)
    finally:
        shutil.rmtree(folder)


def run_in(workspace: Workspace, script: str, *arguments: str, timeout: float = 500) -> Output:
    """Runs ``python SCRIPT`` in a lab that is there."""
    path = SCRIPTS / script
    for name in ("scratch", "my/f"):
        (workspace.folder / name).mkdir(parents=True, exist_ok=True)
    workspace.variables["PYTHONPATH"] = f"src:.:{path.parent}"
    done = workspace.run("python", "-m", path.stem, *arguments, timeout=timeout)
    return Output(done.returncode, (*done.stdout.splitlines(), *done.stderr.splitlines()))


def fails_for(subject: str, *values: object) -> object:
    """A parameter whose test fails until the work of this subject is done; then it must pass."""
    return pytest.param(*values, marks=pytest.mark.xfail(reason=subject, strict=True))

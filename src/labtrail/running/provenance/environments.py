"""An environment with the packages that a run had, beside the present one."""

import hashlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labtrail.errors import DataError
from labtrail.files import write_atomically
from labtrail.running.provenance.machine import requirements
from labtrail.store import lab

_WHOLE = "installed"


def installed(facts: Mapping[str, Any]) -> Path:
    """The interpreter of an environment with the same packages; made below ``.labtrail`` once.

    Args:
        facts: as ``machine.environment`` gave them for the run.

    Raises:
        DataError: the run had another minor version of Python, or a package cannot be installed.
    """
    minor = ".".join(facts["python"].split(".")[:2])
    here = ".".join(platform.python_version_tuple()[:2])
    if minor != here:
        raise DataError(f"the run had Python {facts['python']}, this is {here}; call labtrail with a Python {minor}")
    listed = requirements(facts["packages"])
    folder = lab.state_folder().absolute() / "environments" / hashlib.sha256(listed.encode()).hexdigest()[:16]
    python = folder / "bin" / "python"
    if not (folder / _WHOLE).is_file():
        write_atomically(folder / "requirements.txt", listed.encode())
        _run([sys.executable, "-m", "venv", str(folder)])
        # Every package is named: none has to be looked for.
        _run([str(python), "-m", "pip", "install", "--no-deps", "--quiet", "-r", str(folder / "requirements.txt")])
        write_atomically(folder / _WHOLE, b"")
    return python


def _run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise DataError(f"the packages of the run cannot be installed: {''.join(last)}")

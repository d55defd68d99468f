"""One line in the user's crontab for each campaign, marked so that it is found again."""

import shlex
import subprocess
from collections.abc import Sequence

from labtrail.errors import LabtrailError


def switch_on(name: str, command: Sequence[str], folder: str, log: str, minutes: int) -> str:
    """Puts a line into the crontab, in the place of an earlier one of the same name.

    Args:
        name: of the campaign and its folder; the line is found by it.
        command: program and arguments.
        folder: in which it is run.
        log: file that gets what it prints.
        minutes: between two calls.

    Returns:
        The line.

    Raises:
        LabtrailError: there is no crontab on this machine, or it refuses.
    """
    words = f"cd {shlex.quote(folder)} && {shlex.join(command)} >> {shlex.quote(log)} 2>&1"
    # Cron takes % for the end of the command.
    line = f"*/{minutes} * * * * {words} {_mark(name)}".replace("%", r"\%")
    _write([*_others(name), line])
    return line


def switch_off(name: str) -> bool:
    """Takes the line out; whether there was one.

    Raises:
        LabtrailError: there is no crontab on this machine, or it refuses.
    """
    lines, others = _lines(), _others(name)
    if len(others) < len(lines):
        _write(others)
    return len(others) < len(lines)


def _mark(name: str) -> str:
    return f"# labtrail campaign {name}"


def _others(name: str) -> list[str]:
    return [line for line in _lines() if not line.endswith(_mark(name).replace("%", r"\%"))]


def _lines() -> list[str]:
    done = _crontab("-l")
    if done.returncode != 0 and "no crontab" not in done.stderr:
        raise LabtrailError(f"crontab -l: {' '.join(done.stderr.split())}")
    return done.stdout.splitlines() if done.returncode == 0 else []


def _write(lines: Sequence[str]) -> None:
    done = _crontab("-", text="".join(f"{line}\n" for line in lines))
    if done.returncode != 0:
        raise LabtrailError(f"crontab refuses: {' '.join(done.stderr.split())}")


def _crontab(option: str, text: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["crontab", option], input=text, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        raise LabtrailError("crontab is not on PATH; call the tick by hand, or from a machine that has cron") from None

"""From a command to a job script: a template that the user can read and change, filled in."""

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from labtrail.config import Section
from labtrail.errors import ConfigError
from labtrail.files import write_atomically
from labtrail.jobs.job import SCRATCH_VARIABLE
from labtrail.jobs.queue import Queue
from labtrail.jobs.scheduler import Job
from labtrail.store import contract

_PLACE = re.compile(r"\{\{(\w+)\}\}")
_PLACES = ("resources", "setup", "log", "folder", "python", "job")
_KEY = r"^[A-Za-z][A-Za-z0-9_-]*$"


class BatchConfig(Section):
    """How jobs run on a cluster: a file such as slurm/gpu.json."""

    template: Path
    """job script with {{resources}}, {{setup}}, {{log}}, {{folder}}, {{python}} and {{job}}"""
    resources: dict[Annotated[str, StringConstraints(pattern=_KEY)], str | int | float | bool] = Field(
        default_factory=dict
    )
    """what a job asks for, in the scheduler's own words; true is a switch, false leaves it out"""
    setup: tuple[str, ...] = ()
    """lines of the script before the command: modules, the virtual environment"""
    logs: Path = Path("logs")
    """folder of the jobs' logs"""
    scratch: str = ""
    """folder for temporary files (TMPDIR of the job), made there; variables such as $USER are the job's; empty: none"""
    attempts: int = Field(default=3, ge=1)
    """submissions of a cell without any progress after which it is given up"""
    timeout_s: float = Field(default=30.0, gt=0)
    """silence of the scheduler's commands after which nothing is known"""
    poll_s: float = Field(default=30.0, gt=0)
    """seconds between two looks at the queue, where something waits for jobs"""

    @field_validator("resources", mode="after")
    @classmethod
    def _one_line(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key, value in values.items():
            if "\n" in str(value) or str(value).startswith("-"):
                raise ValueError(f"{key}: expected one line that does not begin with a dash")
        return values

    @property
    def described(self) -> str:
        """Resources in one line, as a tag has them."""
        return " ".join(f"{key}={value}" if value else key for key, value in self.asked.items())

    @property
    def asked(self) -> dict[str, str]:
        """Resources as texts, switches as empty ones."""
        kept = {key: value for key, value in self.resources.items() if value is not False}
        return {key: "" if value is True else str(value) for key, value in kept.items()}


def check(config: BatchConfig, queue: Queue, names: list[str]) -> None:
    """Refuses what could only fail later, before anything is submitted.

    Raises:
        ConfigError: a template or folder that is not there, or a name that the scheduler would not take.
    """
    problems = []
    if not config.template.is_file():
        there = ", ".join(sorted(str(path) for path in config.template.parent.glob("job.*"))) or "none"
        problems.append(f"template: {config.template}: no such file (there: {there})")
    else:
        unknown = set(_PLACE.findall(config.template.read_text(encoding="utf-8"))) - set(_PLACES)
        valid = ", ".join(_PLACES)
        problems += [
            f"template: {config.template}: {{{{{place}}}}} is unknown; valid: {valid}" for place in sorted(unknown)
        ]
    scratch = os.path.expandvars(config.scratch)
    # What only the job knows, it makes.
    folders = {"scratch": "" if "$" in scratch else scratch, "logs": str(config.logs)}
    for key, folder in folders.items():
        if folder:
            problems += _unwritable(key, Path(folder))
    for name in names:
        if len(name) > queue.longest_name:
            problems.append(f"job name {name[:40]}...: {len(name)} characters, {queue.name} takes {queue.longest_name}")
    if problems:
        raise ConfigError(problems)


def _unwritable(key: str, folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".labtrail-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return [f"{key}: {folder}: {error.strerror}; name a folder that you can write to"]
    return []


def write_script(job: Job, folder: Path, config: BatchConfig, queue: Queue, state: Path) -> Path:
    """Writes a job's script, and beside it the file that holds its command and variables.

    A file of its own for each attempt: a job that waits reads its file only when it begins.

    Args:
        job: what is run; its log gets what it prints.
        folder: in which it is run.
        config: resources and template.
        queue: writes the resources.
        state: folder of such files.
    """
    variables = dict(job.variables) | ({SCRATCH_VARIABLE: config.scratch} if config.scratch else {})
    attempt = variables.get(contract.TOKEN_VARIABLE, "0")
    asked = state / "jobs" / f"{job.name}.{attempt}.json"
    content = {"command": list(job.command), "folder": str(folder), "variables": variables}
    write_atomically(asked, json.dumps(content, indent=1).encode())
    job.log.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "resources": "\n".join(queue.directives(config.asked)),
        "setup": "\n".join(config.setup),
        "log": shlex.quote(str(job.log.absolute())),
        "folder": shlex.quote(str(folder)),
        "python": shlex.quote(sys.executable),
        "job": shlex.quote(str(asked.absolute())),
    }
    script = asked.with_suffix(".sh")
    write_atomically(script, filled(config.template.read_text(encoding="utf-8"), values).encode())
    return script


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its places filled; each stands for itself, whatever the others hold."""
    return _PLACE.sub(lambda place: values[place[1]], template)

"""The tasks of all projects by name, and the modules that run them."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from labtrail.errors import ConfigError
from labtrail.running.task import Task


class Known(NamedTuple):
    """A task and the words after ``python -m`` that run it."""

    task: Task[Any]
    module: str


def known_tasks() -> Mapping[str, Known]:
    """Name -> task; the first task of a project has its name, the others are named by a word."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*/__main__.py")):
        project = path.parent.name
        for task in import_module(f"projects.{project}.__main__").TASKS:
            word = task.name.removeprefix(project).removeprefix("-")
            found[task.name] = Known(task, f"projects.{project} {word}".strip())
    return found


def task_named(name: str) -> Known:
    """One of the tasks.

    Raises:
        ConfigError: there is none of this name; lists all.
    """
    tasks = known_tasks()
    if name not in tasks:
        raise ConfigError([f"task {name!r} is unknown; valid: {', '.join(sorted(tasks))}"])
    return tasks[name]

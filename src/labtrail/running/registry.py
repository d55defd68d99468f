"""Which tasks there are: the lab's pyproject.toml lists the modules that hold them, and nothing else does.

[tool.labtrail]
tasks = ["projects.spoter.tasks", "projects.distill.tasks"]
"""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from labtrail.config import choices
from labtrail.errors import ConfigError
from labtrail.running.lazy import load
from labtrail.running.provenance import pins
from labtrail.running.task import Task
from labtrail.store.lab import lab_folder, lab_settings


def task_modules() -> Sequence[str]:
    """Modules of the lab that hold tasks, as its pyproject.toml lists them; empty outside a lab.

    Raises:
        ConfigError: the list is not a list of module names.
    """
    folder = lab_folder()
    if folder is None:
        return ()
    modules = (lab_settings(folder) or {}).get("tasks", [])
    if not (isinstance(modules, list) and all(isinstance(name, str) for name in modules)):
        raise ConfigError([f"{folder}: tool.labtrail.tasks: expected a list of module names, found {modules!r}"])
    return tuple(modules)


def tasks_of(module: str) -> Sequence[Task[Any]]:
    """The tasks that a module of the lab holds: its ``TASKS``, or every Task among its names.

    Raises:
        ConfigError: the module is not there, or holds none.
    """
    folder = lab_folder()
    return _tasks_of(module, folder)


@cache
def _tasks_of(module: str, folder: Path | None) -> Sequence[Task[Any]]:
    # A process that runs from a copy of the lab's code finds none of it in the lab's folder.
    if folder is not None and str(folder) not in sys.path and pins.current() is None:
        sys.path.insert(0, str(folder))
    try:
        names = vars(import_module(module))
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigError([f"tool.labtrail.tasks: no module {module} in {folder}"]) from None
    tasks = names.get("TASKS") or [value for value in names.values() if isinstance(value, Task)]
    if not tasks:
        raise ConfigError([f"tool.labtrail.tasks: module {module} holds no Task"])
    return tuple(tasks)


def known_tasks() -> Mapping[str, Task[Any]]:
    """All tasks of the lab by name.

    Raises:
        ConfigError: a module is not there or holds none, or two tasks have one name.
    """
    tasks: dict[str, Task[Any]] = {}
    for module in task_modules():
        for task in tasks_of(module):
            if tasks.setdefault(task.name, task) is not task:
                raise ConfigError([f"tool.labtrail.tasks: two tasks are called {task.name!r}; the second in {module}"])
    return tasks


def task_named(name: str) -> Task[Any]:
    """One of the tasks, by its name or by its address (``package.module:name``).

    Raises:
        ConfigError: there is none of this name; names the nearest and lists all.
    """
    if ":" in name:
        return _task_at(name)
    # Modules that the name begins with come first, so that the others need not be imported.
    modules = sorted(task_modules(), key=lambda module: not any(name.startswith(word) for word in module.split(".")))
    for module in modules:
        for task in tasks_of(module):
            if task.name == name:
                return task
    valid = sorted(known_tasks())
    if not valid:
        raise ConfigError([f"task {name!r}: no pyproject.toml from here upwards lists tasks under [tool.labtrail]"])
    raise ConfigError([f"task {name!r} is unknown{choices(name, valid)}"])


def _task_at(address: str) -> Task[Any]:
    """The task of an address (``package.module:name``), which the lab need not list."""
    folder = lab_folder() or Path.cwd()
    if str(folder) not in sys.path and pins.current() is None:
        sys.path.insert(0, str(folder))
    try:
        task = load(address)
    except ModuleNotFoundError as error:
        raise ConfigError([f"task {address}: no module {error.name} in {folder}"]) from None
    if not isinstance(task, Task):
        raise ConfigError([f"task {address}: it is a {type(task).__name__}, no Task"])
    return task


def experiment_names() -> list[str]:
    """The MLflow experiments of the lab: those of its tasks, and those of reports and of the tour.

    Raises:
        ConfigError: there is no lab here.
    """
    if lab_folder() is None:
        raise ConfigError([f"{Path.cwd()}: no lab here; a pyproject.toml with a table [tool.labtrail] makes one"])
    return [*sorted({task.experiment_name for task in known_tasks().values()}), "report", "tour"]

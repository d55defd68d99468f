"""For tests of one's own tasks: what ``labtrail check`` tries out, as assertions.

from labtrail.testing import check_resume

def test_my_task_survives_kills() -> None:
    check_resume("my_project.tasks:my_task", epochs=3)
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from labtrail.config import text_of
from labtrail.running.task import Task

_TIMEOUT_S = 3600.0


def check_resume(
    task: Task[Any] | str, *, config: Path | str | None = None, boundaries: int = 3, **values: Any
) -> None:
    """Asserts that a task goes on to the bit when it is killed at each state that it saves.

    It runs in processes of its own and writes to no store.

    Args:
        task: a task that is a name in its module, or its address (``package.module:name``), or its name in the lab.
        config: YAML file of values; None: the task's default.
        boundaries: how many saved states it is followed over.
        values: values of its config; of a value in a section ``{"train.epochs": 3}`` with two asterisks.

    Raises:
        AssertionError: a number or a tensor differs, or something that changes is not kept; says which.
    """
    _check("resume", task, config, boundaries, values)


def check_repeat(
    task: Task[Any] | str, *, config: Path | str | None = None, boundaries: int = 3, **values: Any
) -> None:
    """Asserts that a task that is run twice gives the same numbers to the bit; arguments as for ``check_resume``.

    Raises:
        AssertionError: a number or a tensor differs; says which.
    """
    _check("repeat", task, config, boundaries, values)


def _check(
    what: str, task: Task[Any] | str, config: Path | str | None, boundaries: int, values: dict[str, Any]
) -> None:
    words = [what, task if isinstance(task, str) else _address_of(task), "--boundaries", str(boundaries)]
    words += ["--config", str(config)] if config is not None else []
    words += [f"--{key}={text_of(value)}" for key, value in values.items()]
    # A fresh process: one that has used autograd or threads cannot be forked.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "labtrail.console", "check", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise AssertionError(f"labtrail check {' '.join(words)}\n{done.stdout}{done.stderr}")


def _address_of(task: Task[Any]) -> str:
    """``module:name`` of a task, where another process finds it."""
    functions = (task.function, task.config)
    modules = [sys.modules[name] for name in {getattr(part, "__module__", "") for part in functions} & set(sys.modules)]
    for module in modules:
        for name, value in vars(module).items():
            if value is task:
                return f"{module.__name__}:{name}"
    raise ValueError(f"task {task.name}: no name of its module holds it; give its address, 'package.module:name'")

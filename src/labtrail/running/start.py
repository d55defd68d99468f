"""From a config to a run: what can be answered before torch and MLflow are loaded, and what replaces the process.

Why: docs/decisions/047-done-is-answered-first.md
"""

import itertools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from labtrail.config import ConfigT
from labtrail.errors import ConfigError, Stopped
from labtrail.record import Record
from labtrail.running.processes import is_worker, relaunch, this_program
from labtrail.running.provenance import pins
from labtrail.running.task import Task
from labtrail.store import contract

if TYPE_CHECKING:
    from labtrail.running.work import Work

_log = logging.getLogger("labtrail")


class Wishes(NamedTuple):
    """What the options of a task's command ask for.

    Attributes:
        again: run again although the work may be done.
        keep: let a run of other code count, or continue it.
        pinned: continue a run with the code that began it.
        processes: how many there are to be on this machine; None: as many as were started.
        timeout: seconds of silence after which a process counts as lost.
        register: name in the model registry for the best weights; empty: none.
    """

    again: bool
    keep: bool
    pinned: bool
    processes: int | None
    timeout: float
    register: str


def start(task: Task[ConfigT], config: ConfigT, wishes: Wishes, command: Sequence[str]) -> int:
    """Runs a task unless it is done; the exit status.

    Args:
        task, config: what is asked for.
        wishes: how.
        command: words after ``python`` that start the task, without its options.

    Raises:
        LabtrailError: what is asked for is refused, or a person has to decide.
    """
    from labtrail.running.work import ALREADY_DONE, finished_run, work_of

    reproduces = os.environ.get(contract.REPRODUCES_VARIABLE, "")
    first = not is_worker() and "ACCELERATE_MIXED_PRECISION" not in os.environ
    if wishes.pinned and not first:
        raise ConfigError(["--pinned starts the process anew: give it to the command itself, and --processes with it"])
    processes = wishes.processes or 1
    work = None
    if first and not reproduces and not wishes.again:
        work = work_of(task, config)
        if not wishes.register and "MLFLOW_RUN_ID" not in os.environ and not task.missing(work.config):
            done = finished_run(work, processes)
            if done is not None:
                _log.info(ALREADY_DONE, *done)
                return contract.DONE
        _settle_code(work, wishes, processes)
    if first and processes > 1:
        relaunch(command[:2], sys.argv[1:], processes)
    from labtrail.running.execute import Options, run_work

    options = Options(
        wishes.again,
        wishes.processes,
        wishes.timeout,
        wishes.register,
        keep=wishes.keep,
        command=command,
        reproduces=reproduces,
        watch=stop_after(int(os.environ.get(contract.RECORDS_VARIABLE, "0")) if reproduces else 0),
    )
    return run_work(work or work_of(task, config), options).status


def stop_after(records: int) -> Callable[[Record], None]:
    """Ends a run early, once it has so many records; 0: never."""
    seen = itertools.count(1)

    def watch(_record: Record) -> None:
        if next(seen) == records:
            raise Stopped(f"after {records} records, as was asked")

    return watch


def _settle_code(work: "Work[Any]", wishes: Wishes, processes: int) -> None:
    """What is to be decided about other code before this process becomes several, or one of that code."""
    from labtrail.running.pinned import continue_by_its_code, in_job

    if pins.current() is None and (wishes.pinned or in_job()):
        continue_by_its_code(work, processes, [*this_program(), *sys.argv[1:]], asked=wishes.pinned)
    if processes > 1 and not wishes.keep and "MLFLOW_RUN_ID" not in os.environ:
        from labtrail.running.claim import ask_before
        from labtrail.running.code_policy import PresentCode

        # A launcher would turn the status of its processes into 1.
        ask_before(work.key(processes), PresentCode(work.task.name, work.code))

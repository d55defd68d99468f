"""Going on with a run by the code that began it, whatever has been edited since.

Why: docs/decisions/051-a-round-runs-from-its-pin.md
"""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from labtrail.query.find import run_by_id
from labtrail.query.query import run_row
from labtrail.query.selection import RunRow
from labtrail.running import code_policy
from labtrail.running.claim import runs_of
from labtrail.running.kept_code import kept_code
from labtrail.running.provenance import pins
from labtrail.running.provenance.facts import cluster_facts
from labtrail.running.work import Work
from labtrail.store import connection, contract

_log = logging.getLogger("labtrail")


def in_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is part of a job, which a scheduler may have started for the second time."""
    return "SLURM_JOB_ID" in environment or "PBS_JOBID" in environment


def continue_by_its_code(work: Work[Any], processes: int, command: Sequence[str], asked: bool) -> None:
    """Replaces this process by one that runs the code of the run that it would continue, if that is another code.

    Args:
        work: that is to be done.
        processes: by how many.
        command: words after ``python`` that start this process again.
        asked: whether a person wants this; if not, only a job that its scheduler has started again does.

    Raises:
        DataError: the run has not kept its code.
    """
    run = _begun(work, processes)
    if run is None or not (asked or _is_of_this_job(run)):
        return
    if code_policy.is_other(connection.current_store(), run, code_policy.PresentCode(work.task.name, work.code)):
        folder = kept_code(run).copy()
        _log.info("run %s goes on with the code that began it, as it was kept", run.run_id)
        pins.enter(folder, command)


def _begun(work: Work[Any], processes: int) -> RunRow | None:
    """The run of this work that has begun and not finished; None if there is none, or if the work is done."""
    client = connection.current_store()
    opened = os.environ.get("MLFLOW_RUN_ID")
    runs = [run_by_id(opened)] if opened else []
    if not any(contract.KEY in run.tags for run in runs):
        runs = [run_row(run) for run in runs_of(client, work.key(processes))]
    present = code_policy.PresentCode(work.task.name, work.code)
    if any(run.end == "FINISHED" and not code_policy.is_other(client, run, present) for run in runs):
        return None
    return next((run for run in runs if contract.ATTEMPTS in run.tags and run.end != "FINISHED"), None)


def _is_of_this_job(run: RunRow) -> bool:
    job = cluster_facts().get(contract.JOB_ID)
    return job is not None and run.tags.get(contract.JOB_ID) == job

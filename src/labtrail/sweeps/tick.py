"""One look at a campaign on a batch scheduler: what is missing and not alive is submitted.

A tick may be run by hand, from cron, twice at once, and after anything has died. Its order is its safety: first the
lock, then the queue, then the runs. A job that ends between the two reads has left a run that says FINISHED; one that
is alive is never submitted again; and while the scheduler does not answer, nothing is done.

Why: docs/decisions/013-a-tick-is-not-a-run.md
     docs/decisions/014-count-before-submitting.md
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from labtrail.errors import LabtrailError
from labtrail.jobs.queue import SubmitError
from labtrail.jobs.queues import Batch
from labtrail.jobs.scheduler import Job
from labtrail.jobs.script import check
from labtrail.query.selection import text_of_tag
from labtrail.running.run_status import create_scheduled, mark_killed, set_tags
from labtrail.store import connection, contract, locks
from labtrail.sweeps.campaign import Campaign
from labtrail.sweeps.cell_state import epochs_of, submissions_of, unfinished_state
from labtrail.sweeps.cells import Cell

_log = logging.getLogger("labtrail")

# One for all campaigns of a folder: two of them may share cells.
_LOCK, _PATIENCE_S = "tick", 60.0


class Busy(LabtrailError):  # noqa: N818 not an error
    """Another tick of this folder is at work, and has been for a minute."""


def tick(campaign: Campaign, batch: Batch, *, retry: bool = False) -> list[Cell]:
    """Submits every cell that is due.

    Args:
        campaign: its cells get their states.
        batch: where they run.
        retry: whether cells whose own process failed are submitted again.

    Returns:
        The cells that were submitted.

    Raises:
        Busy: another tick is at work.
        QueueError: the scheduler does not answer; nothing was done since.
        SubmitError, ConfigError: the first job, its template or its folders are refused; nothing was submitted.
    """
    with locks.held(_LOCK, _PATIENCE_S) as lock:
        if lock is None:
            raise Busy("another tick of this folder is at work; nothing to do")
        runs = refresh_from_queue(campaign, batch, retry=retry)
        campaign.note_members()
        due = [cell for cell in campaign.cells if cell.state == "ready"]
        check(batch.config, batch.queue, [job_name(campaign, cell) for cell in due])
        for number, cell in enumerate(due):
            try:
                _submit(campaign, cell, runs.get(cell.key), batch, first=number == 0)
            except SubmitError as error:
                if number == 0:
                    raise
                # A limit of jobs in the queue, most likely: the rest is for later ticks.
                _log.warning("%d submitted; then %s", number, error)
                return due[:number]
        return due


def refresh_from_queue(campaign: Campaign, batch: Batch, *, retry: bool = False) -> Mapping[str, Mapping[str, Any]]:
    """Brings all cells up to what queue and store say; submits nothing.

    Returns:
        Key -> the run of that work, as rows of ``Query.runs``.
    """
    runs = campaign.read_runs()
    campaign.refresh(runs)
    names = {cell.key: job_name(campaign, cell) for cell in campaign.cells if cell.key}
    asked = {names[cell.key] for cell in campaign.cells if cell.key and cell.state != "done"}
    # Somebody may have submitted the same work under another name.
    others = {key: text_of_tag(run, contract.JOB_NAME) for key, run in runs.newest.items() if key in names}
    queue = batch.queue.alive(asked | {name for name in others.values() if name})
    runs = campaign.read_runs()
    campaign.refresh(runs)
    for cell in campaign.cells:
        if cell.state == "ready":
            # One whose key was not known when the queue was read waits for the next tick.
            known = cell.key in names
            queued = queue.get(names[cell.key], queue.get(others.get(cell.key, ""))) if known else None
            newest_run = runs.newest.get(cell.key)
            cell.state, cell.problem = (
                unfinished_state(newest_run, queued, attempts=batch.config.attempts, retry=retry)
                if known
                else ("waiting", "")
            )
            cell.run_id = str(newest_run["run_id"]) if newest_run else ""
            cell.job_id = queued.job_id if queued else ""
    return runs.newest


def job_name(campaign: Campaign, cell: Cell) -> str:
    """Identity of a cell's job: what it is called, and the key of its work."""
    return f"{campaign.title(cell)}.{cell.key}"


def _submit(campaign: Campaign, cell: Cell, run: Mapping[str, Any] | None, batch: Batch, *, first: bool) -> None:
    """Opens the run if there is none, counts the submission, and submits: in this order, so that none is forgotten.

    Raises:
        SubmitError: the job is refused; the submission does not count.
    """
    name = job_name(campaign, cell)
    if run is not None and run["status"] == "FINISHED":
        # Its result lay outside the run and is gone: that is work for another run.
        run = None
    token, since = (0, 0) if run is None else submissions_of(run)
    log, job = batch.config.logs / campaign.name / f"{cell.name}.log", campaign.job(cell)
    variables = {
        **batch.variables,
        **job.variables,
        contract.TOKEN_VARIABLE: str(token + 1),
    }
    if first:
        batch.queue.check(batch.script(Job(f"check-{name}", job.command, variables, log)))
    if run is None:
        experiment = connection.initialise([campaign.experiment])[campaign.experiment]
        tags = {contract.KEY: cell.key, contract.CAMPAIGN: campaign.name}
        cell.run_id = create_scheduled(campaign.task_name, experiment, campaign.title(cell), tags)
    progress = f"{epochs_of(cell.run_id)}@{since}"
    set_tags(cell.run_id, {contract.SUBMISSIONS: str(token + 1), contract.PROGRESS: progress})
    set_tags(cell.run_id, {contract.SCHEDULER: batch.queue.name, contract.JOB_NAME: name})
    script = batch.script(Job(name, job.command, {**variables, "MLFLOW_RUN_ID": cell.run_id}, log))
    try:
        cell.job_id = batch.queue.submit(script, name, log.absolute())
    except SubmitError as error:
        set_tags(cell.run_id, {contract.SUBMISSIONS: str(token)})
        mark_killed(cell.run_id, str(error))
        raise
    set_tags(cell.run_id, {contract.JOB_ID: cell.job_id})
    cell.state, cell.problem = "queued", ""
    _log.info("submitted %s as job %s%s", cell.name, cell.job_id, f", attempt {token + 1}" if token else "")


def cancel(campaign: Campaign, batch: Batch) -> list[Cell]:
    """Ends all jobs of a campaign; runs of jobs that had not begun are closed. The next tick would go on.

    Raises:
        Busy: a tick is at work.
        QueueError: the scheduler does not answer.
    """
    with locks.held(_LOCK, _PATIENCE_S) as lock:
        if lock is None:
            raise Busy("a tick of this folder is at work; nothing was cancelled, try again in a moment")
        refresh_from_queue(campaign, batch)
        with_jobs = [cell for cell in campaign.cells if cell.job_id]
        batch.queue.cancel([cell.job_id for cell in with_jobs])
        for cell in with_jobs:
            if cell.state != "running":
                mark_killed(cell.run_id, "cancelled before its job began")
        return with_jobs


def overview(cells: Collection[Cell]) -> pd.DataFrame:
    """Number of cells in each state, a row for each combination of group and swept values; seeds are added up."""
    rows = [
        {
            "group": cell.group.name,
            **{key: cell.values[key] for key in cell.group.grid if key != "seed"},
            "state": cell.state,
        }
        for cell in cells
    ]
    table = pd.DataFrame(rows).fillna("")
    keys = [name for name in table.columns if name != "state"]
    counts = table.groupby(keys, sort=False)["state"].value_counts().unstack(fill_value=0)
    return counts[[state for state in _ORDER if state in counts]].reset_index()


_ORDER = ("done", "running", "queued", "ready", "waiting", "stuck", "dead", "failed")


def remarks(cells: Collection[Cell], link: Mapping[str, str]) -> Iterator[str]:
    """A line for each cell that is neither done nor merely waiting.

    Args:
        cells: after a look.
        link: run id -> address of the run's page.
    """
    for cell in cells:
        if cell.state not in ("done", "ready", "waiting"):
            job = f"job {cell.job_id}" if cell.job_id else "no job"
            yield "  ".join(
                part for part in (cell.state, cell.name, job, cell.problem, link.get(cell.run_id, "")) if part
            )

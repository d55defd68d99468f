"""What is to be said of a cell's work, from its runs in the store and its job in a queue.

Why: docs/decisions/014-count-before-submitting.md
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from labtrail.jobs.queue import Queued
from labtrail.query.query import Query
from labtrail.query.selection import text_of_tag
from labtrail.running.claim import is_held
from labtrail.store import contract, locks

State = Literal["done", "running", "queued", "stuck", "ready", "waiting", "dead", "failed"]

_EPOCHS = "system/epoch_seconds"


@dataclass(frozen=True)
class WorkRuns:
    """The runs of a task by the key of their work.

    Attributes:
        newest: key -> the newest run of that work, as a row of ``Query.runs``.
        finished: key -> id of the newest finished run.
        by_other_code: key -> the newest run of code that does not count; such runs are in none of the others.
    """

    newest: Mapping[str, Mapping[str, Any]]
    finished: Mapping[str, str]
    by_other_code: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def runs_by_key(task: str, codes: Collection[str] = ()) -> WorkRuns:
    """Reads all runs of a task, those of archived rounds among them.

    Args:
        task: its name.
        codes: digests of the codes that count, beside runs of which none is known; empty: all count.
    """
    rows = Query(task).ended(*contract.ANY_END).with_archived().runs().to_dict("records")
    named = [row for row in rows if isinstance(row.get(contract.KEY), str)]
    # A run that counts under further keys stands behind one that has such a key for its own.
    further = [
        row | {contract.KEY: key} for row in named for key in json.loads(text_of_tag(row, contract.KEYS) or "[]")
    ]
    keyed = [*further, *named]
    counting, others = [], []
    for row in keyed:
        counts = not codes or text_of_tag(row, contract.CODE) in ("", *codes)
        (counting if counts else others).append(row)
    finished = {row[contract.KEY]: str(row["run_id"]) for row in counting if row["status"] == "FINISHED"}
    newest, by_other_code = ({row[contract.KEY]: row for row in part} for part in (counting, others))
    return WorkRuns(newest, finished, by_other_code)


def unfinished_state(
    run: Mapping[str, Any] | None, queued: Queued | None, *, attempts: int, retry: bool
) -> tuple[State, str]:
    """The state of a cell that no run has finished and whose needs are met, and what there is to say of it.

    Args:
        run: newest run of its work.
        queued: its job, if the queue has one.
        attempts: how often it is submitted without getting any further.
        retry: whether it is tried again after a failure of its own.
    """
    if queued is not None:
        return ("stuck", queued.stuck) if queued.stuck else ("running" if queued.running else "queued", queued.state)
    if run is None or run["status"] == "FINISHED":
        return "ready", ""
    if run["status"] == "FAILED" and not retry:
        return "failed", text_of_tag(run, contract.STATUS_REASON)
    if run["status"] != "KILLED" and text_of_tag(run, contract.PLACE) not in ("", locks.place()):
        return "running", f"from another folder or machine ({text_of_tag(run, contract.HOST)})"
    if not text_of_tag(run, contract.JOB_ID) and is_held(str(run["run_id"])):
        return "running", "by a process that is not a job"
    submissions, since = submissions_of(run)
    if submissions - since >= attempts and not retry:
        reason = text_of_tag(run, contract.STATUS_REASON)
        return "dead", f"submitted {submissions - since} times without getting any further{reason and f'; {reason}'}"
    return "ready", ""


def submissions_of(run: Mapping[str, Any]) -> tuple[int, int]:
    """How often a run was submitted, and how often when it was last seen to have got further."""
    submissions = int(text_of_tag(run, contract.SUBMISSIONS) or 0)
    epoch, _, at = text_of_tag(run, contract.PROGRESS).partition("@")
    further = epochs_of(str(run["run_id"])) > int(epoch or 0)
    return submissions, submissions if further else int(at or 0)


def epochs_of(run_id: str) -> int:
    """Epochs that a run has logged."""
    query = Query().only([run_id]).ended(*contract.ANY_END)
    return int(query.history([_EPOCHS])["step"].max()) + 1 if _EPOCHS in query.metrics() else 0

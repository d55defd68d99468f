"""Looking after a store: what is wrong with it, what died in it, and where it lies."""

import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from labtrail.jobs.backends import queue_named
from labtrail.jobs.queue import QueueError
from labtrail.running.claim import is_held
from labtrail.running.run_status import mark_killed
from labtrail.store import connection, contract, lab, locks

_PACKAGES = ("torch", "mlflow", "accelerate", "optuna")
_LEAST_FREE_GIB = 5
_TIMEOUT_S = 30.0
_SHOWN = 5


class Finding(NamedTuple):
    """One thing that was looked at."""

    verdict: Literal["ok", "problem", "note"]
    text: str


def doctor() -> Iterator[Finding]:
    """Looks at store, experiments, artifacts, open runs, versions and disk, and changes nothing."""
    try:
        client = connection.current_store()
        experiments = connection.all_experiments(client)
    except Exception as error:
        yield Finding("problem", f"store {connection.tracking_uri()} cannot be opened: {str(error).splitlines()[0]}")
        return
    yield Finding("ok", f"store {connection.tracking_uri()}: {len(experiments)} experiments")
    runs = connection.search(client, "")
    used = {run.info.experiment_id for run in runs}
    for experiment in experiments:
        yield from _experiment(
            experiment.name, str(experiment.artifact_location), used=experiment.experiment_id in used
        )
    yield from _artifacts(client, runs)
    yield from _open_runs(runs)
    yield _versions()
    yield _disk()


def _experiment(name: str, location: str, *, used: bool) -> Iterator[Finding]:
    """Whether artifacts can be read and written where an experiment keeps them; a fresh one has no folder yet."""
    folder = connection.local_path(location)
    if folder is None or folder.is_dir():
        return
    base = next(parent for parent in folder.parents if parent.exists())
    if used:
        remedy = "was the checkout moved? labtrail relocate OLD NEW mends it"
        yield Finding("problem", f"experiment {name}: its artifacts lie in {folder}, which is not there; {remedy}")
    elif not os.access(base, os.W_OK):
        yield Finding("problem", f"experiment {name}: its artifacts go to {folder}, and {base} cannot be written to")


def _artifacts(client: connection.MlflowClient, runs: Sequence[connection.MlflowRun]) -> Iterator[Finding]:
    """Finished runs whose artifacts are gone, and folders that belong to no run."""
    lost, known = [], set[Path]()
    for run in runs:
        folder = connection.local_path(str(run.info.artifact_uri))
        if folder is None:
            return
        known.add(folder.parent)
        if run.data.tags.get(contract.ENDED) == "FINISHED" and not folder.is_dir():
            lost.append(run.info.run_id)
    yield _listed("finished runs without their artifacts", lost, "problem")
    roots = {folder.parent for folder in known if folder.parent.is_dir()}
    everyone = {path for root in roots for path in root.iterdir() if contract.is_run_id(path.name)}
    orphans = [str(path) for path in everyone - known if not connection.has_run(client, path.name)]
    yield _listed("artifact folders without a run", orphans, "note")


def _listed(what: str, names: list[str], verdict: Literal["problem", "note"]) -> Finding:
    if not names:
        return Finding("ok", f"no {what}")
    shown = ", ".join(sorted(names)[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    return Finding(verdict, f"{len(names)} {what}: {shown}")


def _open_runs(runs: Sequence[connection.MlflowRun]) -> Iterator[Finding]:
    try:
        dead = _dead(runs)
    except QueueError as error:
        yield Finding("problem", str(error))
        return
    for run, reason in dead:
        what = f"run {run.info.run_id} ({run.info.run_name}) is {run.info.status}"
        yield Finding("note", f"{what}, but {reason}; labtrail reap closes it")


def _versions() -> Finding:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return Finding("ok", f"Python {sys.version.split()[0]}, {versions}, on {socket.gethostname()}")


def _disk() -> Finding:
    free = shutil.disk_usage(lab.working_folder()).free / 2**30
    return Finding("problem" if free < _LEAST_FREE_GIB else "ok", f"{free:.1f} GiB free in {lab.working_folder()}")


def reap() -> list[tuple[str, str]]:
    """Closes open runs of this folder whose job or process is gone; they can be continued.

    Returns:
        (run id, reason) of those that were closed.

    Raises:
        QueueError: a scheduler does not answer; nothing was closed.
    """
    dead = _dead(connection.search(connection.current_store(), ""))
    for run, reason in dead:
        mark_killed(run.info.run_id, reason)
    return [(run.info.run_id, reason) for run, reason in dead]


def _dead(runs: Sequence[connection.MlflowRun]) -> list[tuple[connection.MlflowRun, str]]:
    """Open runs of this folder with nobody at work on them; those of other folders and people are theirs to judge."""
    jobs: dict[str, list[connection.MlflowRun]] = {}
    dead = []
    for run in runs:
        tags = run.data.tags
        if run.info.status not in contract.OPEN or tags.get(contract.PLACE) != locks.place():
            continue
        if contract.JOB_NAME in tags and contract.SCHEDULER in tags:
            jobs.setdefault(tags[contract.SCHEDULER], []).append(run)
        elif not is_held(run.info.run_id):
            dead.append((run, "its process is gone"))
    for scheduler, theirs in jobs.items():
        alive = queue_named(scheduler, _TIMEOUT_S).alive([run.data.tags[contract.JOB_NAME] for run in theirs])
        dead += [
            (run, f"its {scheduler} job {run.data.tags.get(contract.JOB_ID, '')} is gone")
            for run in theirs
            if run.data.tags[contract.JOB_NAME] not in alive
        ]
    return dead

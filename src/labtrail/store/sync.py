"""Copies runs from one store to another, and may be repeated: what was copied whole is not copied again.

For nodes that reach no server: a job writes to a SQLite file of its own, and the login node brings the runs home.
MLflow gives every run a new id; the old one is kept as a tag by which a second copy finds the first. Ids in tags
(parent, pointer, runs that were read) follow the runs; params stay what ran, and ``find_run`` leads from an old id to
the new run.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, RunInputs, RunTag
from mlflow.entities import Run as MlflowRun
from tqdm import tqdm

from labtrail.config import fingerprint
from labtrail.errors import LabtrailError
from labtrail.store import connection, contract

_PER_CALL = 1000
_PER_CALL_SMALL = 100
# Tags whose value names other runs, with spaces between several.
_NAMING = (contract.PARENT, contract.SAME_AS, contract.READS)


class Counts(NamedTuple):
    """What a copy did.

    Attributes:
        copied: runs that are new or have changed.
        same: runs that were there already.
        open: runs that have not ended, and are left for the next time.
    """

    copied: int
    same: int
    open: int


def sync(source: MlflowClient, target: MlflowClient, only: Collection[str] | None = None) -> Counts:
    """Copies every run that has ended, with its history, data sets and artifacts.

    A run that is itself a copy is known by the id it first had, so that a run which comes home is found there.

    Args:
        source, target: stores.
        only: ids of the runs in the source; None: all.

    Raises:
        LabtrailError: source and target are the same store.
    """
    if connection.absolute(source.tracking_uri) == connection.absolute(target.tracking_uri):
        raise LabtrailError(f"{source.tracking_uri}: source and target are the same store")
    experiments = {experiment.experiment_id: experiment for experiment in connection.all_experiments(source)}
    source_runs = [run for run in connection.search(source, "") if only is None or run.info.run_id in only]
    runs = sorted(source_runs, key=lambda run: (run.info.start_time or 0, run.info.run_id))
    # One that is continued keeps the time of its earlier end.
    ended = [run for run in runs if run.info.status not in contract.OPEN]
    known = {
        run.data.tags[contract.SOURCE_RUN]: run
        for run in connection.search(target, f"tags.`{contract.SOURCE_RUN}` != ''")
    }
    # What another copy has brought keeps its place: its source may be gone by now.
    ids = {origin: run.info.run_id for origin, run in known.items()}
    for run in runs:
        if (there := known.get(_origin(run))) is not None:
            ids[run.info.run_id] = there.info.run_id
        elif connection.has_run(target, _origin(run), deleted=False):
            ids[run.info.run_id] = _origin(run)
    due = [
        run
        for run in ended
        if ids.get(run.info.run_id) != _origin(run) and not _is_copy(known.get(_origin(run)), _digest(run))
    ]
    # All are opened before any is filled, so that their ids are known where one names another.
    for run in due:
        if run.info.run_id not in ids:
            ids[run.info.run_id] = _open(run, experiments[run.info.experiment_id], target)
    for run in tqdm(due, desc="sync", unit="run", disable=None):
        _fill(run, known.get(_origin(run)), ids, source, target)
    return Counts(len(due), len(ended) - len(due), len(runs) - len(ended))


def _origin(run: MlflowRun) -> str:
    """The id that a run had where it was made."""
    return run.data.tags.get(contract.SOURCE_RUN, run.info.run_id)


def _is_copy(earlier: MlflowRun | None, digest: str) -> bool:
    return earlier is not None and earlier.data.tags.get(contract.SYNCED) == digest


def _digest(run: MlflowRun) -> str:
    """Changes with everything that a run that is continued changes."""
    tags = {name: value for name, value in run.data.tags.items() if name not in (contract.SOURCE_RUN, contract.SYNCED)}
    return fingerprint(run.info.end_time, run.info.status, run.data.metrics, run.data.params, tags)


def _open(run: MlflowRun, experiment: Experiment, target: MlflowClient) -> str:
    experiment_id = connection.experiment_named(target, experiment.name)
    tags = {contract.SOURCE_RUN: _origin(run)}
    opened = target.create_run(experiment_id, run.info.start_time, tags=tags, run_name=run.info.run_name)
    return opened.info.run_id


def _fill(
    run: MlflowRun, there: MlflowRun | None, ids: Mapping[str, str], source: MlflowClient, target: MlflowClient
) -> None:
    """Copies what one run has; the tag that calls it whole is written last."""
    source_id = run.info.run_id
    run_id = ids[source_id]
    for start in range(0, len(run.data.params), _PER_CALL_SMALL):
        part = list(run.data.params.items())[start : start + _PER_CALL_SMALL]
        target.log_batch(run_id, params=[Param(key, value) for key, value in part])
    for points in _batches(run, source):
        target.log_batch(run_id, metrics=points)
    if isinstance(run.inputs, RunInputs) and run.inputs.dataset_inputs:
        target.log_inputs(run_id, run.inputs.dataset_inputs)
    _copy_artifacts(source_id, run_id, source, target)
    source_tags = {
        key: value for key, value in run.data.tags.items() if key not in (contract.SOURCE_RUN, contract.SYNCED)
    }
    tags = {key: _renamed(value, ids) if key in _NAMING else value for key, value in source_tags.items()}
    for start in range(0, len(tags), _PER_CALL_SMALL):
        part = list(tags.items())[start : start + _PER_CALL_SMALL]
        target.log_batch(run_id, tags=[RunTag(key, value) for key, value in part])
    kept = {*tags, contract.SOURCE_RUN, contract.SYNCED}
    for name in (there.data.tags.keys() - kept) if there is not None else ():
        target.delete_tag(run_id, name)
    target.set_terminated(run_id, run.info.status, run.info.end_time)
    target.set_tag(run_id, contract.SYNCED, _digest(run))


def _renamed(value: str, ids: Mapping[str, str]) -> str:
    return " ".join(ids.get(word, word) for word in value.split())


def _batches(run: MlflowRun, source: MlflowClient) -> Iterator[list[Metric]]:
    points = [point for name in run.data.metrics for point in source.get_metric_history(run.info.run_id, name)]
    for start in range(0, len(points), _PER_CALL):
        part = points[start : start + _PER_CALL]
        yield [Metric(point.key, point.value, point.timestamp, point.step) for point in part]


def _copy_artifacts(source_id: str, run_id: str, source: MlflowClient, target: MlflowClient) -> None:
    local = connection.local_path(str(source.get_run(source_id).info.artifact_uri))
    if local is not None:
        if local.is_dir() and any(local.iterdir()):
            target.log_artifacts(run_id, str(local))
    elif source.list_artifacts(source_id):
        with tempfile.TemporaryDirectory() as folder:
            target.log_artifacts(run_id, str(Path(source.download_artifacts(source_id, "", folder))))

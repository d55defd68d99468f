"""Where runs live: one tracking store, initialised once, in which experiments are found by id."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.entities.paged_list import PagedList

from labtrail.errors import ClaimError
from labtrail.store import locks
from labtrail.store.address import SQLITE, absolute, tracking_uri
from labtrail.store.ui_links import without_secrets

T = TypeVar("T")

_OTHER_SCHEMA = re.compile(r"found version (\w+), but expected (\w+)")


def local_path(uri: str) -> Path | None:
    """The folder behind an artifact address; None where artifacts must be uploaded and downloaded."""
    parsed = urlparse(uri)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def open_store(uri: str) -> MlflowClient:
    """A client of another store than this folder's, which has to be there.

    Raises:
        ClaimError: it cannot be opened; says why.
    """
    _quieten()
    uri = absolute(uri)
    path = Path(uri.removeprefix(SQLITE))
    if uri.startswith(SQLITE) and not path.is_file():
        raise ClaimError(f"{uri}: there is no file {path}")
    try:
        client = open_checked(uri)
        client.search_experiments(max_results=1)
    except ClaimError:
        raise
    except Exception as error:
        raise ClaimError(f"{without_secrets(uri)}: the store cannot be opened: {_first_line(error, uri)}") from error
    return client


def _first_line(error: Exception, uri: str) -> str:
    return str(error).splitlines()[0].replace(uri, without_secrets(uri))


def create_store(uri: str) -> MlflowClient:
    """A client of a new store at an address of its own."""
    _quieten()
    client = open_checked(absolute(uri))
    client.search_experiments(max_results=1)
    return client


def current_store() -> MlflowClient:
    """A client of the store; processes started from here on find the same one.

    Raises:
        ClaimError: its database is of another version of MLflow.
    """
    _quieten()
    uri = tracking_uri()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return open_checked(uri)


def open_checked(uri: str) -> MlflowClient:
    """A client of a store whose database has the schema of this MLflow.

    Raises:
        ClaimError: it has another one; says what to do.
    """
    try:
        return MlflowClient(uri)
    except MlflowException as error:
        if (match := _OTHER_SCHEMA.search(str(error))) is None:
            raise
        shown = without_secrets(uri)
        raise ClaimError(
            f"{shown}: the database is of another version of MLflow (schema {match[1]}, this one has {match[2]}); "
            f"install that version, or, if it is an older one, copy the database and run: mlflow db upgrade {shown}"
        ) from error


def _quieten() -> None:
    # Opening a store reports every schema migration at level INFO.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store"):
        logging.getLogger(name).setLevel(logging.WARNING)


def initialise(experiments: Iterable[str], artifacts: str = "") -> dict[str, str]:
    """Migrates the store and creates the experiments that are missing; safe to call at once from anywhere.

    Opening a new SQLite store in two processes at once corrupts it, and racing creations of an experiment
    send runs elsewhere, so all of it happens under one lock.

    Args:
        experiments: their names.
        artifacts: folder of the artifacts of new ones; empty: where the store keeps them.

    Returns:
        Experiment name -> id.
    """
    with locks.locked("store"):
        client = current_store()
        client.search_experiments(max_results=1)
        return {name: experiment_named(client, name, artifacts) for name in experiments}


def experiment_named(client: MlflowClient, name: str, artifacts: str = "") -> str:
    """Id of an experiment, which is created if there is none.

    Raises:
        ClaimError: it was deleted.
    """
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            raise ClaimError(
                f"experiment {name!r} was deleted; 'mlflow experiments restore -x {experiment.experiment_id}'"
            )
        return experiment.experiment_id
    try:
        return client.create_experiment(name, str(Path(artifacts).absolute() / name) if artifacts else None)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        # Another working folder uses the same server and was faster.
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return experiment.experiment_id


def all_experiments(client: MlflowClient) -> list[Experiment]:
    """Every active experiment."""
    return all_pages(client.search_experiments)


def search(client: MlflowClient, condition: str, order_by: list[str] | None = None) -> list[MlflowRun]:
    """Every active run of every active experiment that meets an MLflow filter; pages past 1,000."""
    experiments = [experiment.experiment_id for experiment in all_experiments(client)]
    return all_pages(client.search_runs, experiment_ids=experiments, filter_string=condition, order_by=order_by)


def all_pages(method: Callable[..., PagedList[T]], **arguments: Any) -> list[T]:
    """Everything that a call of MLflow finds, of which it gives a page at a time."""
    page = method(**arguments)
    items = list(page)
    while page.token:
        page = method(**arguments, page_token=page.token)
        items += page
    return items


def run_of(client: MlflowClient, run_id: str) -> MlflowRun | None:
    """A run, deleted ones included; None if the store has none of this id."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
            raise
        return None


def has_run(client: MlflowClient, run_id: str, *, deleted: bool = True) -> bool:
    """Whether there is such a run; deleted ones count unless told otherwise."""
    run = run_of(client, run_id)
    return run is not None and (deleted or run.info.lifecycle_stage == "active")

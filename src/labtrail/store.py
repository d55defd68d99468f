"""Where runs live: one tracking store, initialised once, in which experiments are found by id."""

import logging
import os
import uuid
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlparse

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.entities.paged_list import PagedList

from labtrail.errors import ClaimError
from labtrail.files import write_atomically

T = TypeVar("T")

_SQLITE = "sqlite:///"


def working_folder() -> Path:
    """The checkout in which all is run."""
    return Path.cwd()


def state_folder() -> Path:
    """Folder of locks and of work in progress, beside the store; not part of any result."""
    return working_folder() / ".labtrail"


def place() -> str:
    """A name for this working folder that no other has: locks tell a live run from a dead one only within it."""
    path = state_folder() / "place"
    if not path.exists():
        with locked("place"):
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex.encode())
    return path.read_text()


def tracking_uri() -> str:
    """The store's address: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the current folder; never relative."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if uri.startswith(_SQLITE) and not uri.startswith(f"{_SQLITE}/"):
        uri = f"{_SQLITE}{(Path.cwd() / uri.removeprefix(_SQLITE)).resolve()}"
    return uri


def local_path(uri: str) -> Path | None:
    """The folder behind an artifact address; None where artifacts must be uploaded and downloaded."""
    parsed = urlparse(uri)
    return Path(unquote(parsed.path)) if parsed.scheme in ("", "file") else None


def connect() -> MlflowClient:
    """A client of the store; processes started from here on find the same one."""
    _quieten()
    uri = tracking_uri()
    os.environ["MLFLOW_TRACKING_URI"] = uri
    return MlflowClient(uri)


def _quieten() -> None:
    # Opening a store reports every schema migration at level INFO.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def locked(name: str) -> Generator[None]:
    """Holds a lock of this working folder; freed by the system when the process dies."""
    folder = state_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        yield


@contextmanager
def held(name: str) -> Generator[FileLock | None]:
    """As ``locked``, but without waiting: None if another process holds the lock."""
    folder = state_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()


def initialise(experiments: Iterable[str]) -> dict[str, str]:
    """Migrates the store and creates the experiments that are missing; safe to call at once from anywhere.

    Opening a new SQLite store in two processes at once corrupts it, and racing creations of an experiment
    send runs elsewhere, so all of it happens under one lock.

    Returns:
        Experiment name -> id.
    """
    with locked("store"):
        client = connect()
        client.search_experiments(max_results=1)
        return {name: _experiment(client, name) for name in experiments}


def _experiment(client: MlflowClient, name: str) -> str:
    found: Experiment | None = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise ClaimError(f"experiment {name!r} was deleted; 'mlflow experiments restore -x {found.experiment_id}'")
        return found.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise
        # Another working folder uses the same server and was faster.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id


def search(client: MlflowClient, condition: str, order_by: list[str] | None = None) -> list[MlflowRun]:
    """Every active run of every active experiment that meets an MLflow filter; pages past 1,000."""
    experiments = [one.experiment_id for one in _all_pages(client.search_experiments)]
    return _all_pages(client.search_runs, experiment_ids=experiments, filter_string=condition, order_by=order_by)


def _all_pages(method: Callable[..., PagedList[T]], **arguments: Any) -> list[T]:
    page = method(**arguments)
    items = list(page)
    while page.token:
        page = method(**arguments, page_token=page.token)
        items += page
    return items

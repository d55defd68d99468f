"""Finding one run, its data, its files and its model: for tasks that read another run's results."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException

from labtrail.config import ConfigT, load_config
from labtrail.errors import QueryError
from labtrail.files import remove, sha256_of
from labtrail.query.query import run_row
from labtrail.query.selection import RunRow
from labtrail.record import DataSource
from labtrail.store import connection, contract, lab, ui_links

_SHOWN = 5


def find_run(wanted: str, task: str, client: MlflowClient | None = None) -> pd.Series:
    """The one finished run of a task that somebody means.

    Args:
        wanted: a run id, ``latest``, or an MLflow filter that exactly one finished run meets
            (``params.`cfg.seed` = '1'``). The id of a pointer leads to the run it points to.
        task: name of the task the run must be of.
        client: of another store than the current one.

    Returns:
        The run's row as in ``Query.runs``.

    Raises:
        QueryError: no such run, several, one of another task, or one that has not finished.
    """
    client = client or connection.current_store()
    if contract.is_run_id(wanted):
        return _row_of(_run_by_id(wanted, task, client), task)
    condition = f"tags.`{contract.TASK}` = '{task}'" + ("" if wanted == contract.LATEST else f" and {wanted}")
    finished = [run for run in _searched(wanted, condition, client) if _is_result(run, wanted)]
    if not finished:
        raise QueryError(f"run {wanted!r}: no finished run of task {task}{_known(task, client)}")
    if len(finished) > 1 and wanted != contract.LATEST:
        raise QueryError(f"run {wanted!r}: {len(finished)} finished runs of task {task}: {_listed(finished)}; name one")
    return _row_of(finished[0], task)


def run_by_id(run_id: str, client: MlflowClient | None = None) -> RunRow:
    """A run of any task and end; the id of a pointer leads to the run it points to.

    Raises:
        QueryError: it is no id, or there is no such run.
    """
    client = client or connection.current_store()
    run = connection.run_of(client, run_id) if contract.is_run_id(run_id) else None
    if run is not None and contract.SAME_AS in run.data.tags:
        run = connection.run_of(client, run.data.tags[contract.SAME_AS])
    if run is None or run.info.lifecycle_stage != "active":
        where = ui_links.without_secrets(connection.tracking_uri())
        hint = "" if contract.is_run_id(run_id) else "; an id has 32 hexadecimal digits"
        raise QueryError(f"run {run_id}: no such run in {where}{hint}")
    return run_row(run)


def runs_tagged(name: str, value: str, client: MlflowClient | None = None) -> list[RunRow]:
    """The runs of any task and end that have a value of a tag, the newest first."""
    client = client or connection.current_store()
    runs = connection.search(client, f"tags.`{name}` = '{value}'", order_by=["attributes.start_time DESC"])
    return [run_row(run) for run in runs]


def find_runs(wanted: str, task: str, client: MlflowClient | None = None) -> list[str]:
    """Ids of the finished runs of a task that somebody means, oldest first; at least one.

    Args:
        wanted: run ids with commas between them, ``latest``, ``all``, or an MLflow filter.
        task: name of the task the runs must be of.
        client: of another store than the current one.

    Raises:
        QueryError: as ``find_run``; or no run meets the filter.
    """
    client = client or connection.current_store()
    words = [word.strip() for word in wanted.split(",")]
    if wanted == contract.LATEST or all(contract.is_run_id(word) for word in words):
        return list(dict.fromkeys(str(find_run(word, task, client)["run_id"]) for word in words))
    condition = f"tags.`{contract.TASK}` = '{task}'" + ("" if wanted == contract.ALL else f" and {wanted}")
    finished = [run.info.run_id for run in _searched(wanted, condition, client) if _is_result(run, wanted)]
    if not finished:
        raise QueryError(f"runs {wanted!r}: no finished run of task {task}{_known(task, client)}")
    return finished[::-1]


def _searched(wanted: str, condition: str, client: MlflowClient) -> list[MlflowRun]:
    """Runs that meet a filter somebody typed, newest first."""
    try:
        return connection.search(client, condition, order_by=["attributes.start_time DESC"])
    except MlflowException as error:
        raise QueryError(
            f"run {wanted!r}: neither a run id nor '{contract.LATEST}' nor a filter that MLflow understands: "
            f"{str(error).splitlines()[0]}"
        ) from error


def data_digests(run_id: str, client: MlflowClient | None = None) -> set[str]:
    """The sha-256 digests of everything a run has read."""
    return set(data_by_context(run_id, client).values())


def data_by_context(run_id: str, client: MlflowClient | None = None) -> dict[str, str]:
    """Part that the data had in a run, with their name -> sha-256 digest, of everything that it has read."""
    inputs = (client or connection.current_store()).get_run(run_id).inputs
    digests = {}
    for read in inputs.dataset_inputs if inputs else ():
        profile = json.loads(read.dataset.profile or "{}")
        contexts = [tag.value for tag in read.tags if tag.key == "mlflow.data.context"]
        if "sha256" in profile:
            digests[f"{', '.join(contexts)} ({read.dataset.name})"] = profile["sha256"]
    return digests


def model_version(uri: str, client: MlflowClient | None = None) -> tuple[str, str]:
    """Run id and version of a registered model, named ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    Raises:
        QueryError: no such model, alias or version; lists what the registry has.
    """
    client = client or connection.current_store()
    name, _, alias = uri.removeprefix("models:/").partition("@")
    name, _, version = (name, "", "") if alias else name.rpartition("/")
    try:
        version_of_model = (
            client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
        )
    except MlflowException as error:
        registered = {model.name: ", ".join(model.aliases) or "no alias" for model in client.search_registered_models()}
        there = "; ".join(f"{model} ({aliases})" for model, aliases in registered.items()) or "none"
        raise QueryError(f"{uri}: no such model; registered ones: {there}") from error
    return str(version_of_model.run_id), str(version_of_model.version)


def _run_by_id(run_id: str, task: str, client: MlflowClient) -> MlflowRun:
    run = connection.run_of(client, run_id)
    if run is not None and contract.SAME_AS in run.data.tags:
        run = connection.run_of(client, run.data.tags[contract.SAME_AS])
    if run is None:
        # One that was copied from another store is known there by the id it had.
        run = next(iter(connection.search(client, f"tags.`{contract.SOURCE_RUN}` = '{run_id}'")), None)
    if run is None or run.info.lifecycle_stage != "active":
        raise QueryError(
            f"run {run_id}: no such run in {ui_links.without_secrets(connection.tracking_uri())}{_known(task, client)}"
        )
    run_task = run.data.tags.get(contract.TASK, "none of labtrail")
    if run_task != task:
        raise QueryError(f"run {run_id}: of task {run_task}, expected {task}{_known(task, client)}")
    return run


def _row_of(run: MlflowRun, task: str) -> pd.Series:
    end = contract.end_of(run.data.tags, run.info.status)
    if end != "FINISHED":
        reason = run.data.tags.get(contract.STATUS_REASON, "no reason was left")
        raise QueryError(
            f"run {run.info.run_id}: {task} {run.info.run_name} is {end}, not FINISHED ({reason}); "
            "repeat the command that started it to finish it"
        )
    return pd.Series(run_row(run).row())


def _is_result(run: MlflowRun, wanted: str = "") -> bool:
    """Whether a run is finished work; of archived rounds only if somebody's own filter found it."""
    wide = wanted in (contract.LATEST, contract.ALL)
    if {contract.SAME_AS, contract.REPRODUCES} & run.data.tags.keys() or (wide and contract.ARCHIVED in run.data.tags):
        return False
    return contract.end_of(run.data.tags, run.info.status) == "FINISHED"


def _known(task: str, client: MlflowClient) -> str:
    condition = f"tags.`{contract.TASK}` = '{task}'"
    runs = connection.search(client, condition, order_by=["attributes.start_time DESC"])
    finished = [run for run in runs if _is_result(run)]
    return f"; finished ones: {_listed(finished)}" if finished else f"; no run of task {task} has finished yet"


def _listed(runs: Sequence[MlflowRun]) -> str:
    shown = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in runs[:_SHOWN])
    return shown + (f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else "")


def artifact_names(run_id: str, folder: str, client: MlflowClient | None = None) -> list[str]:
    """Names of the artifacts directly in a folder of a run ("" is its root), sorted; empty if there is none."""
    listed = (client or connection.current_store()).list_artifacts(run_id, folder or None)
    return sorted(Path(file_info.path).name for file_info in listed)


def artifact(run_id: str, name: str, client: MlflowClient | None = None) -> Path:
    """A local path of one artifact file: the file itself, or a copy brought from a remote store once.

    Raises:
        QueryError: the run has no such artifact; names what lies beside it.
    """
    client = client or connection.current_store()
    folder, _, last = name.rpartition("/")
    beside = artifact_names(run_id, folder, client)
    if last not in beside:
        there = f"it has {', '.join(beside)} there" if beside else f"it has nothing in {folder or 'its root'}"
        raise QueryError(f"run {run_id}: no artifact {name}; {there}")
    root = connection.local_path(str(client.get_run(run_id).info.artifact_uri))
    if root is not None:
        return root / name
    copy = lab.state_folder() / "artifacts" / run_id / name
    if not copy.exists():
        arriving = lab.state_folder() / "arriving" / uuid.uuid4().hex
        arriving.mkdir(parents=True)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Path(client.download_artifacts(run_id, name, str(arriving))).replace(copy)
        remove(arriving)
    return copy


def run_config(run_id: str, cls: type[ConfigT]) -> ConfigT:
    """What a run ran with, from its artifact ``config.yaml``.

    Args:
        run_id: of a run of the task.
        cls: config class of the task.

    Raises:
        QueryError: the run keeps no config.
        ConfigError: it is not a config of this class.
    """
    return load_config(cls, artifact(run_id, contract.CONFIG_FILE))


def artifact_source(
    run_id: str, name: str, context: str, label: str = "", profile: Mapping[str, Any] | None = None, digest: str = ""
) -> DataSource:
    """An artifact of a run as data that another run reads.

    Args:
        run_id: whose artifact it is.
        name: of the artifact.
        context: its part in the run that reads it.
        label: what people call it; empty: the name of its file.
        profile: counts worth seeing beside the label.
        digest: sha-256 of its content where that is known; empty: it is computed.

    Raises:
        QueryError: there is no such artifact.
    """
    digest = digest or sha256_of(artifact(run_id, name))
    return DataSource(label or Path(name).name, context, f"runs:/{run_id}/{name}", digest, profile or {}, run_id)

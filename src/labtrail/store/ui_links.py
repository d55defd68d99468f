"""Permalinks into the MLflow UI."""

import json
import os
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from labtrail.errors import QueryError

# The comparison page asks the server for every run by itself.
_MOST_COMPARED = 60


def quoted(value: str) -> str:
    """A string of MLflow's filter language, which has no escapes.

    Raises:
        QueryError: it has both kinds of quotes.
    """
    if "'" not in value:
        return f"'{value}'"
    if '"' not in value:
        return f'"{value}"'
    raise QueryError(f"{value!r}: a value with both kinds of quotes cannot be searched for on this store")


def experiment_chart(base: str, experiment_id: str) -> str:
    """The runs of an experiment as charts."""
    return f"{base}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"


def compare(base: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """The comparison of some runs: parallel coordinates, scatter, box and contour plots."""
    runs, experiments = (quote(json.dumps(list(ids))) for ids in (run_ids, experiment_ids))
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"


def these_runs(base: str, runs: Mapping[str, str]) -> str:
    """Exactly these runs: the comparison, or charts of a filtered list where there are too many to compare.

    Args:
        base: address of the UI.
        runs: run id -> id of its experiment.
    """
    experiments = list(dict.fromkeys(runs.values()))
    if len(runs) <= _MOST_COMPARED or len(experiments) > 1:
        # A list shows one experiment only.
        return compare(base, experiments, list(runs))
    condition = f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in runs)})"
    return filtered(base, experiments[0], condition)


def filtered(base: str, experiment_id: str, condition: str) -> str:
    """The runs of an experiment that meet an MLflow filter, as charts."""
    return f"{experiment_chart(base, experiment_id)}&searchFilter={quote(condition)}"


def run(base: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def artifact(base: str, experiment_id: str, run_id: str, path: str) -> str:
    """A file among the artifacts of a run."""
    return f"{run(base, experiment_id, run_id)}/artifacts/{quote(path)}"


def base() -> str:
    """Address of the UI: of the tracking server if there is one, else where ``labtrail ui`` starts it by default."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return without_secrets(uri).rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"


def without_secrets(uri: str) -> str:
    """An address without user and password, as it may be printed and published."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

"""Permalinks into the MLflow UI."""

import json
import os
from collections.abc import Sequence
from urllib.parse import quote


def experiment_chart(base: str, experiment_id: str) -> str:
    """The runs of an experiment as charts."""
    return f"{base}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"


def compare(base: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """The comparison of some runs: parallel coordinates, scatter, box and contour plots."""
    runs, experiments = (quote(json.dumps(list(ids))) for ids in (run_ids, experiment_ids))
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"


def run(base: str, experiment_id: str, run_id: str) -> str:
    """The page of one run."""
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def base() -> str:
    """Address of the UI: of the tracking server if there is one, else where ``labtrail ui`` starts it by default."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri.rstrip("/") if uri.startswith(("http://", "https://")) else "http://127.0.0.1:5000"

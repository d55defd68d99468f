"""Permalinks into the MLflow UI."""

import json
from collections.abc import Sequence
from urllib.parse import quote


def experiment_chart(base: str, experiment_id: str) -> str:
    """The runs of an experiment as charts."""
    return f"{base}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"


def compare(base: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """The comparison of some runs: parallel coordinates, scatter, box and contour plots."""
    runs, experiments = (quote(json.dumps(list(ids))) for ids in (run_ids, experiment_ids))
    return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"

"""Query: the one reader of MLflow. Runs become tidy frames, and what was left out is said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from labtrail import contract, store


class Query:
    """A selection of runs, wherever they are in the store.

    Runs that only point to another (``labtrail.same_as``) and deleted runs are never returned.
    """

    def __init__(
        self,
        task: str | None = None,
        *,
        campaign: str | None = None,
        config: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        run_ids: Sequence[str] | None = None,
        statuses: Sequence[str] = ("FINISHED",),
        client: MlflowClient | None = None,
    ) -> None:
        """
        Args:
            task: name of the task; None: all tasks.
            campaign: name of the campaign.
            config: dotted config key -> value; compared as the run's ``cfg.*`` params.
            tags: further tags that must be equal.
            run_ids: exactly these runs, instead of a search.
            statuses: which ends count; runs of another status are counted in ``left_out``.
            client: of another store than the current one.
        """
        self._client = client or store.connect()
        self._statuses = tuple(statuses)
        self._run_ids = run_ids
        wanted = {contract.TASK: task, contract.CAMPAIGN: campaign, **(tags or {})}
        conditions = [f"tags.`{name}` = '{value}'" for name, value in wanted.items() if value is not None]
        conditions += [f"params.`{contract.CONFIG_PREFIX}{key}` = '{value}'" for key, value in (config or {}).items()]
        self._condition = " and ".join(conditions)
        self._found: list[MlflowRun] | None = None
        self.left_out: Counter[str] = Counter()

    def _selected(self) -> list[MlflowRun]:
        if self._found is None:
            self._found, self.left_out = [], Counter()
            for run in self._candidates():
                if contract.TASK not in run.data.tags:
                    self.left_out["not of labtrail"] += 1
                elif contract.SAME_AS in run.data.tags:
                    self.left_out["points to another run"] += 1
                elif (end := contract.end_of(run.data.tags, run.info.status)) not in self._statuses:
                    self.left_out[end.lower()] += 1
                else:
                    self._found.append(run)
        return self._found

    def _candidates(self) -> list[MlflowRun]:
        if self._run_ids is not None:
            return [self._client.get_run(run_id) for run_id in self._run_ids]
        return store.search(self._client, self._condition, order_by=["attributes.start_time ASC"])

    def runs(self) -> pd.DataFrame:
        """One row per run, oldest first: id, name, status, times, then tags, ``cfg.*`` params and last metrics."""
        rows = [_row(run) for run in self._selected()]
        return pd.DataFrame(rows, columns=None if rows else ["run_id", "name", "status"])

    def history(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """All points of all runs in long form: run_id, metric, step, value, ordered so.

        Args:
            metrics: names; None: all that a run has.

        Of several points of one step (a crash between log and save repeats one) the last is kept.
        """
        rows = []
        for run in self._selected():
            for name in metrics if metrics is not None else sorted(run.data.metrics):
                points = self._client.get_metric_history(run.info.run_id, name) if name in run.data.metrics else []
                last = {point.step: point.value for point in sorted(points, key=lambda point: point.timestamp)}
                rows += [(run.info.run_id, name, step, last[step]) for step in sorted(last)]
        return pd.DataFrame(rows, columns=["run_id", "metric", "step", "value"])

    def summary(self) -> str:
        """How many runs were found and left out, in one line."""
        found = len(self._selected())
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{found} runs" + (f"; left out: {left}" if left else "")


def _row(run: MlflowRun) -> dict[str, Any]:
    info, data = run.info, run.data
    times = {
        "started": _moment(info.start_time),
        "ended": _moment(info.end_time),
    }
    own_tags = {name: value for name, value in data.tags.items() if not name.startswith("mlflow.")}
    parameters = {name: value for name, value in data.params.items() if name.startswith(contract.CONFIG_PREFIX)}
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "status": contract.end_of(data.tags, info.status),
        "experiment_id": info.experiment_id,
        **times,
        **own_tags,
        **parameters,
        **data.metrics,
    }


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC)

"""Query: the one reader of MLflow. Runs become tidy frames, and what was left out is said.

Why: docs/decisions/032-unknown-metrics-are-errors.md
"""

import difflib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from tqdm import tqdm

from labtrail.errors import QueryError
from labtrail.files import write_atomically
from labtrail.query.database import open_database
from labtrail.query.selection import (
    MetricPoints,
    RunRow,
    Selection,
    frame_of,
    joined,
    oldest_first,
    points_of,
    positions,
    tidy,
)
from labtrail.store import connection, contract, lab, ui_links

_POINTS = ("run_id", "metric", "step", "timestamp", "value")
# From so many runs on, reading them one by one takes long enough to show how far it is.
_MANY = 20


class Query:
    """A selection of runs, wherever they are in the store; each method that narrows it gives a new one.

    ``Query("distill").campaign("round-3").runs()``. Finished runs, unless ``ended`` says otherwise. Runs that only
    point to another (``labtrail.same_as``) and deleted runs are never returned; those of archived rounds are if the
    round or the runs are named, or with ``with_archived``.

    A store that is a database of ours is read by SQL, any other by MLflow's public calls; both give the same frames.
    """

    def __init__(
        self, task: str | None = None, *, client: MlflowClient | None = None, selection: Selection | None = None
    ) -> None:
        """
        Args:
            task: name of the task; None: all tasks.
            client: of another store than the current one.
            selection: to begin with.
        """
        self._client = client or connection.current_store()
        base = selection or Selection()
        self.selection = replace(base, tags={**base.tags, contract.TASK: task}) if task else base
        self._rows: list[RunRow] | None = None
        self.left_out: Counter[str] = Counter()

    def campaign(self, name: str) -> "Query":
        """Only runs of this campaign, those of earlier rounds among them that its cells rest on."""
        return self._narrowed(campaign=name, archived=True)

    def tagged(self, tags: Mapping[str, str]) -> "Query":
        """Only runs with these tags."""
        return self._narrowed(tags={**self.selection.tags, **tags})

    def configured(self, config: Mapping[str, Any]) -> "Query":
        """Only runs with these values: dotted config key -> value, compared as the run's ``cfg.*`` params."""
        params = {f"{contract.CONFIG_PREFIX}{key}": str(value) for key, value in config.items()}
        return self._narrowed(params={**self.selection.params, **params})

    def only(self, run_ids: Sequence[str]) -> "Query":
        """Exactly these runs, instead of a search, in this order."""
        return self._narrowed(run_ids=tuple(dict.fromkeys(run_ids)), archived=True)

    def ended(self, *statuses: str) -> "Query":
        """Runs that ended in one of these ways; the others are counted in ``left_out``."""
        return self._narrowed(statuses=statuses)

    def with_archived(self) -> "Query":
        """Runs of archived rounds, too."""
        return self._narrowed(archived=True)

    def _narrowed(self, **changes: Any) -> "Query":
        return Query(client=self._client, selection=replace(self.selection, **changes))

    def rows(self) -> Sequence[RunRow]:
        """What the store has of every run of the selection.

        Raises:
            QueryError: a run that was named is not there.
        """
        if self._rows is None:
            candidates = self._candidates()
            reasons = [self.selection.reason_against(run) for run in candidates]
            self.left_out = Counter(reason for reason in reasons if reason)
            self._rows = [run for run, reason in zip(candidates, reasons, strict=True) if not reason]
        return self._rows

    def _candidates(self) -> Sequence[RunRow]:
        database = open_database(self._client.tracking_uri)
        candidates = database.runs(self.selection) if database else read_runs(self._client, self.selection)
        wanted = self.selection.run_ids
        if wanted is None:
            return candidates
        places = {run.run_id: run for run in candidates}
        conditions = self.selection.tags or self.selection.params or self.selection.campaign
        if not conditions and (missing := [run for run in wanted if run not in places]):
            raise QueryError(f"run {missing[0]}: no such run in {ui_links.without_secrets(self._client.tracking_uri)}")
        return [places[run] for run in wanted if run in places]

    def runs(self) -> pd.DataFrame:
        """One row per run, oldest first: id, name, status, times, then tags, ``cfg.*`` params and last metrics."""
        return frame_of(self.rows())

    def metrics(self) -> list[str]:
        """Names of all metrics that a run of the selection has."""
        return sorted({name for run in self.rows() for name in run.metrics})

    def history(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """All points of all runs in long form: run_id, metric, step, value, ordered so.

        Args:
            metrics: names; None: all that a run has.

        Of several points of one step (a crash between log and save repeats one) the last is kept.

        Raises:
            QueryError: there are runs, and none has such a metric; names near ones.
        """
        runs, known = self.rows(), self.metrics()
        names = list(dict.fromkeys(known if metrics is None else metrics))
        for name in names if runs else ():
            require("metric", name, known)
        database = open_database(self._client.tracking_uri) if runs and names else None
        ids = [run.run_id for run in runs]
        points = database.points(ids, names) if database else read_points(self._client, runs, names)
        return tidy(points, ids, names)

    def artifacts(self, folder: str = "") -> pd.DataFrame:
        """Every artifact file of every run below a folder ("" is the root): run_id, path, bytes."""
        rows = [
            (run.run_id, path, size) for run in self.rows() for path, size in _files(self._client, run.run_id, folder)
        ]
        return pd.DataFrame(rows, columns=["run_id", "path", "bytes"])

    def models(self) -> pd.DataFrame:
        """Versions of registered models that came of these runs: name, version, aliases, run_id, source."""
        ids = {run.run_id for run in self.rows()}
        versions = [
            all_page for all_page in connection.all_pages(self._client.search_model_versions) if all_page.run_id in ids
        ]
        aliases = self._aliases() if versions else {}
        rows = [
            (
                version.name,
                int(version.version),
                " ".join(aliases.get((version.name, int(version.version)), ())),
                version.run_id,
                version.source,
            )
            for version in versions
        ]
        return pd.DataFrame(sorted(rows), columns=["name", "version", "aliases", "run_id", "source"])

    def _aliases(self) -> Mapping[tuple[str, int], Sequence[str]]:
        """Name and version of a registered model -> its aliases; a search for versions does not tell them."""
        aliases: dict[tuple[str, int], list[str]] = {}
        for model in connection.all_pages(self._client.search_registered_models):
            for alias, version in sorted(model.aliases.items()):
                aliases.setdefault((model.name, int(version)), []).append(alias)
        return aliases

    def summary(self) -> str:
        """How many runs were found and left out, in one line."""
        count = len(self.rows())
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        return f"{count} runs" + (f"; left out: {left}" if left else "")


def require(what: str, name: str, known: Sequence[str]) -> None:
    """Refuses a name that no run has.

    Args:
        what: it is a name of (``metric``).
        name: that somebody asked for.
        known: names that there are.

    Raises:
        QueryError: names near ones, or all if none is near.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
        listed = f"near ones: {', '.join(near)}" if near else f"they have: {', '.join(known) or 'none'}"
        raise QueryError(f"{what} {name!r}: no run has it; {listed}")


def read_runs(client: MlflowClient, selection: Selection) -> list[RunRow]:
    """As ``Database.runs``, by MLflow's public calls."""
    if selection.run_ids is not None:
        runs = [run for run_id in selection.run_ids if (run := connection.run_of(client, run_id)) is not None]
        rows = [run_row(run) for run in runs if run.info.lifecycle_stage == "active"]
        return oldest_first(run for run in rows if _meets(run, selection))
    conditions = [f"tags.`{name}` = {ui_links.quoted(value)}" for name, value in selection.tags.items()]
    conditions += [f"params.`{name}` = {ui_links.quoted(value)}" for name, value in selection.params.items()]
    rounds = [
        f"tags.`{key}` = {ui_links.quoted(value)}" if value else f"tags.`{key}` LIKE '%'"
        for key, value in selection.rounds()
    ]
    # The filter language knows no "or".
    by_id = {
        run.info.run_id: run_row(run)
        for round_condition in rounds or [""]
        for run in connection.search(
            client, " and ".join([*conditions, *([round_condition] if round_condition else [])])
        )
    }
    return oldest_first(by_id.values())


def _meets(run: RunRow, selection: Selection) -> bool:
    rounds = selection.rounds()
    belongs = any(key in run.tags and value in ("", run.tags[key]) for key, value in rounds) or not rounds
    return belongs and selection.tags.items() <= run.tags.items() and selection.params.items() <= run.params.items()


def run_row(run: MlflowRun) -> RunRow:
    """What MLflow's own object says of a run."""
    info, data = run.info, run.data
    return RunRow(
        info.run_id,
        info.run_name or "",
        info.status,
        info.experiment_id,
        info.start_time,
        info.end_time,
        data.tags,
        data.params,
        data.metrics,
    )


def read_points(client: MlflowClient, runs: Sequence[RunRow], metrics: Sequence[str]) -> MetricPoints:
    """As ``Database.points``, by MLflow's public calls, one for each metric of each run; what has ended is kept."""
    places, names = positions([run.run_id for run in runs]), positions(metrics)
    bar = tqdm(runs, desc="history", unit="run", leave=False, disable=True if len(runs) < _MANY else None)
    return joined([points_of(_rows_of(client, run, metrics), places, names) for run in bar])


def _rows_of(client: MlflowClient, run: RunRow, metrics: Sequence[str]) -> list[Any]:
    """The points of one run; those of an ended one come from this folder's cache, where they were asked for before."""
    path = lab.state_folder() / "cache" / "history" / f"{run.run_id}-{run.ended}.parquet"
    ended = run.status not in contract.OPEN and run.ended is not None
    known = pd.read_parquet(path) if ended and path.exists() else pd.DataFrame(columns=list(_POINTS))
    wanted = {name for name in metrics if name in run.metrics}
    missing = sorted(wanted - set(known["metric"]))
    if missing:
        fresh = pd.DataFrame(
            [
                (run.run_id, name, point.step, point.timestamp, point.value)
                for name in missing
                for point in client.get_metric_history(run.run_id, name)
            ],
            columns=list(_POINTS),
        )
        known = pd.concat([known, fresh], ignore_index=True) if len(known) else fresh
        if ended:
            content = io.BytesIO()
            known.to_parquet(content, index=False)
            write_atomically(path, content.getvalue())
    return list(known[known["metric"].isin(wanted)].itertuples(index=False, name=None))


def _files(client: MlflowClient, run_id: str, folder: str) -> Iterator[tuple[str, int]]:
    for artifact in client.list_artifacts(run_id, folder or None):
        if artifact.is_dir:
            yield from _files(client, run_id, artifact.path)
        else:
            yield artifact.path, int(artifact.file_size or 0)

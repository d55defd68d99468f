"""From the store to frames: the runs of a report, their groups, their curves and what did not finish.

Why: docs/decisions/033-what-makes-no-group.md
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from labtrail.errors import QueryError
from labtrail.query import scores
from labtrail.query.frames import group_names, newest_of_each, over_seeds, varying
from labtrail.query.query import Query, require
from labtrail.query.scores import Direction
from labtrail.report.config import ReportConfig
from labtrail.store import contract

_CURVES = ("train/loss", "validation/loss")
_MOST_HEADLINES = 6
# The id of a run, or a digest.
_IDENTITY = re.compile(r"[0-9a-f]{32,}")
# What stands for a setting that a run does not have.
NOT_SET = "not set"
_SEED = f"{contract.CONFIG_PREFIX}seed"


@dataclass(frozen=True)
class ReportData:
    """What a report tells of.

    Attributes:
        runs: finished runs, of repeats the newest; with a column ``group``.
        unfinished: runs that failed, were killed, or have not ended.
        left_out: words on what was found and is not shown.
        ranking: the metric that ranks groups.
        score: what makes an epoch of a run the best; None where runs name none.
        keys: config keys that make the groups, without their prefix.
        pooled: config keys in which runs of one group differ, but for the seed: then its spread is not that of repeats.
        metrics: headline metrics, the ranking one first.
        groups: a row per group and headline metric, as ``frames.over_seeds``; best group first.
        drawn: metrics whose curves are shown.
    """

    runs: pd.DataFrame
    unfinished: pd.DataFrame
    left_out: str
    ranking: Direction
    score: Direction | None
    keys: Sequence[str]
    pooled: Sequence[str]
    metrics: Sequence[str]
    groups: pd.DataFrame
    drawn: Sequence[str]

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As ``Query.history``, with a column ``group``; read when it is first asked for, since it is the most."""
        history = Query().only(list(self.runs["run_id"])).history(self.drawn)
        history = history.assign(group=history["run_id"].map(self.runs.set_index("run_id")["group"]))
        # One point is a result, and no curve.
        steps = history.groupby("metric")["step"].transform("nunique")
        return history[steps > 1].reset_index(drop=True)

    @property
    def repeats(self) -> str:
        """Over what means are taken, in words."""
        return f"over runs that differ in {', '.join(self.pooled)}" if self.pooled else "over repeats"

    @property
    def names(self) -> list[str]:
        """Groups, the best first."""
        return list(dict.fromkeys(self.groups["group"]))


def selected(config: ReportConfig) -> Query:
    """The runs that a config means, however they ended.

    Raises:
        QueryError: it names neither a campaign nor a task, or there is no such run.
    """
    if not (config.campaign or config.task):
        raise QueryError(f"which runs? name a campaign or a task; campaigns: {_campaigns()}")
    query = Query(config.task or None).ended(*contract.ANY_END)
    query = query.campaign(config.campaign) if config.campaign else query
    if not query.rows():
        meant = " and ".join(f"{name} {value!r}" for name, value in _named(config).items())
        raise QueryError(f"{meant}: no run to report ({query.summary()}); campaigns: {_campaigns()}")
    return query


def _named(config: ReportConfig) -> dict[str, str]:
    wanted = {"campaign": config.campaign, "task": config.task}
    return {name: value for name, value in wanted.items() if value}


def _campaigns() -> str:
    runs = Query().ended(*contract.ANY_END).with_archived().rows()
    return ", ".join(sorted({run.tags[contract.CAMPAIGN] for run in runs if contract.CAMPAIGN in run.tags})) or "none"


def gather(config: ReportConfig) -> ReportData:
    """Everything that a report shows.

    Raises:
        QueryError: no run has finished, or a metric, key or group that was named is not there.
    """
    query = selected(config)
    everything = query.runs()
    ended = everything["status"] == "FINISHED"
    finished = newest_of_each(everything[ended]).reset_index(drop=True)
    finished = finished[~finished[contract.TASK].isin(contract.ABOUT_RUNS)].reset_index(drop=True)
    if finished.empty:
        counts = ", ".join(f"{count} {status.lower()}" for status, count in everything["status"].value_counts().items())
        raise QueryError(f"none of {len(everything)} runs has finished ({counts}); a report needs one that has")
    score = scores.score_from_tags(finished.get(contract.SCORE, ()))
    known = [name for name in query.metrics() if name in finished and finished[name].notna().any()]
    ranking = _ranking(config, known, score)
    keys = _keys(config, finished)
    finished["group"] = group_names(finished.fillna(dict.fromkeys(keys, NOT_SET)), keys).replace("", "all")
    metrics = [ranking.metric, *(name for name in scores.headline(known, score) if name != ranking.metric)]
    groups = _ranked(over_seeds(finished, metrics[:_MOST_HEADLINES], ["group"], config.level), ranking)
    if config.against:
        require("group", config.against, list(dict.fromkeys(groups["group"])))
    return ReportData(
        runs=finished,
        unfinished=everything[~ended].reset_index(drop=True),
        left_out=_left_out(query, int(ended.sum()) - len(finished)),
        ranking=ranking,
        score=score,
        keys=[key.removeprefix(contract.CONFIG_PREFIX) for key in keys if key != contract.TASK],
        pooled=_pooled(finished),
        metrics=metrics[:_MOST_HEADLINES],
        groups=groups,
        drawn=_drawn(config, known, score),
    )


def _ranking(config: ReportConfig, known: Sequence[str], score: Direction | None) -> Direction:
    if config.metric:
        require("metric", config.metric, known)
        return scores.direction_of(config.metric, score)
    names = scores.headline(known, score)
    if not names:
        raise QueryError("the runs have no metric to rank them by; name one with --metric")
    return scores.direction_of(names[0].removeprefix(f"{contract.BEST_PREFIX}/"), score)._replace(metric=names[0])


def _keys(config: ReportConfig, runs: pd.DataFrame) -> list[str]:
    """Columns that make groups; ids and digests of what a run reads differ with every seed, and tell nothing."""
    prefix = contract.CONFIG_PREFIX
    tasks = [contract.TASK] if runs[contract.TASK].nunique() > 1 else []
    if config.group:
        known = [str(name).removeprefix(prefix) for name in runs if str(name).startswith(prefix)]
        for key in config.group:
            require("config key", key, known)
        return tasks + [f"{prefix}{key}" for key in config.group]
    keys = varying(runs, apart=[_SEED])
    identities = [key for key in keys if runs[key].map(_is_identity).any()]
    plain = [key for key in keys if key not in identities]
    kept = plain + [key for key in identities if _tells_apart(runs, key, plain + tasks)]
    # Words before numbers: "logit, alpha=0.3".
    return tasks + sorted(kept, key=lambda key: bool(pd.to_numeric(runs[key].dropna(), errors="coerce").notna().all()))


def _tells_apart(runs: pd.DataFrame, key: str, others: Sequence[str]) -> bool:
    """Whether runs of one seed that are alike otherwise differ in it: then it is a setting of its own."""
    alike = [*others, *([_SEED] if _SEED in runs else [])]
    return bool((runs.groupby(alike, dropna=False)[key].nunique() > 1).any()) if alike else True


def _is_identity(value: object) -> bool:
    return isinstance(value, str) and _IDENTITY.fullmatch(value) is not None


def _pooled(runs: pd.DataFrame) -> list[str]:
    varied = [key for key in varying(runs, apart=[_SEED]) if not runs[key].map(_is_identity).any()]
    counts = runs.groupby("group")[varied].nunique() if varied else pd.DataFrame()
    return [key.removeprefix(contract.CONFIG_PREFIX) for key in varied if (counts[key] > 1).any()]


def _ranked(groups: pd.DataFrame, ranking: Direction) -> pd.DataFrame:
    """The rows of the best group first; groups without the metric last."""
    means = groups[groups["metric"] == ranking.metric].set_index("group")["mean"]
    places = means.rank(ascending=not ranking.larger, method="first")
    ordered = groups.assign(_place=groups["group"].map(places).fillna(len(places) + 1))
    return ordered.sort_values("_place", kind="stable").drop(columns="_place").reset_index(drop=True)


def _drawn(config: ReportConfig, known: Sequence[str], score: Direction | None) -> list[str]:
    for name in config.curves:
        require("metric", name, known)
    usual = [*_CURVES, *([score.metric] if score else [])]
    return list(config.curves) or [name for name in dict.fromkeys(usual) if name in known]


def _left_out(query: Query, repeats: int) -> str:
    parts = [f"{count} {reason}" for reason, count in sorted(query.left_out.items())]
    if repeats:
        parts.append(f"{repeats} earlier repeats of the same work, or campaigns and reports themselves")
    return ", ".join(parts)

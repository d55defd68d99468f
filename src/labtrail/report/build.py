"""A whole report: its page, figures and tables.

Why: docs/decisions/037-nobody-against-the-winner.md
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from labtrail import contract
from labtrail.files import write_atomically
from labtrail.query.frames import paired_differences, varying
from labtrail.query.query import Query
from labtrail.report.config import ReportConfig
from labtrail.report.gather import Gathered, gather
from labtrail.report.page import Cell, Column, Row, Section, Table, page
from labtrail.report.pictures import best_last_table, files_of, pictures, wall_minutes
from labtrail.store import ui_links

_MOST_ROWS = 40
_SIGNIFICANT = 0.05


class Report(NamedTuple):
    """What a report leaves behind.

    Attributes:
        html: the page.
        sections: what it is made of.
        figures: name of an artifact -> figure.
        tables: name of an artifact -> frame.
        metrics: counts, and the best group's mean.
        summary: one sentence.
    """

    html: str
    sections: Sequence[Section]
    figures: Mapping[str, Figure]
    tables: Mapping[str, pd.DataFrame]
    metrics: Mapping[str, float]
    summary: str


def build(config: ReportConfig) -> Report:
    """Reads the store and makes the report.

    Raises:
        QueryError: as ``gather``.
    """
    found = gather(config)
    made = pictures(found)
    against = config.against or found.names[0]
    differences = paired_differences(found.runs, found.ranking.metric, "group", against, level=config.level)
    words = _findings(found, differences, against, chosen=bool(config.against))
    experiments = dict(zip(found.runs["run_id"], found.runs["experiment_id"], strict=True))
    sections = [
        Section("Results", [words], table=_headline(found, config.level)),
        *(Section(one.title, picture=one) for one in made),
        *_comparison(differences, against, found.ranking.metric, config),
        *_unfinished(found),
        Section("Runs", table=_runs(found)),
        Section("Settings that all runs share", table=_constants(found)),
    ]
    title = f"{config.campaign or config.task}: {len(found.runs)} runs"
    tables = {
        "groups": found.groups,
        "runs": found.runs,
        "unfinished": found.unfinished,
        "paired_differences": differences,
        "best_and_last": best_last_table(found),
    }
    best = found.groups[found.groups["metric"] == found.ranking.metric]["mean"]
    return Report(
        html=page(title, _about(found), sections, experiments),
        sections=sections,
        figures=files_of(made),
        tables={f"tables/{name}.csv": table for name, table in tables.items()},
        metrics={"report/runs": float(len(found.runs)), "report/unfinished": float(len(found.unfinished)),
                 "report/groups": float(len(found.names)), "report/best_mean": float(best.iloc[0])},
        summary=words,
    )  # fmt: skip


def refresh(campaign: str, folder: Path) -> Path | None:
    """Writes the page of a round as it stands to ``FOLDER/CAMPAIGN.html``; None while no run of it has finished."""
    if not len(Query().campaign(campaign).found()):
        return None
    target = folder / f"{campaign}.html"
    write_atomically(target, build(ReportConfig(campaign=campaign)).html.encode())
    return target


def _about(found: Gathered) -> str:
    """What was run, where and when, in one paragraph."""
    runs = found.runs
    tasks = ", ".join(sorted(runs[contract.TASK].unique()))
    days = sorted({f"{one:%Y-%m-%d}" for one in pd.to_datetime(runs["started"], utc=True)})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    commits = sorted({str(one)[:10] for one in runs.get(contract.GIT_COMMIT, pd.Series(dtype=object)).dropna()})
    devices = sorted({str(one) for one in runs.get(contract.DEVICE, pd.Series(dtype=object)).dropna()})
    parts = [f"{len(runs)} finished runs of {tasks} in {len(found.names)} groups, started {when}."]
    if found.left_out:
        parts.append(f"Left out: {found.left_out}.")
    if devices:
        parts.append(f"Run on {', '.join(devices[:3])}{' and others' if len(devices) > 3 else ''}.")
    if commits:
        parts.append(f"Code: {', '.join(commits[:4])}{f' and {len(commits) - 4} more' if len(commits) > 4 else ''}.")
    return " ".join(parts)


def _findings(found: Gathered, differences: pd.DataFrame, against: str, *, chosen: bool) -> str:
    """The result in words, with what it does not tell; only a group chosen beforehand can be tested against."""
    ranked = found.groups[found.groups["metric"] == found.ranking.metric]
    best = ranked.iloc[0]
    words = f"Best by {found.ranking.metric} ({found.ranking.words}): {best['group']}, {best['mean']:.4g}"
    if pd.notna(best["low"]):
        words += f" [{best['low']:.4g}, {best['high']:.4g}] over {best['runs']} runs."
    else:
        words += " from a single run, which says nothing about chance."
    tested = differences["p_holm"].notna()
    if chosen and tested.any():
        clear = int((differences["p_holm"] < _SIGNIFICANT).sum())
        words += f" {clear} of {int(tested.sum())} groups that can be tested differ from {against} over paired seeds"
        words += " (Holm's correction)."
    if found.pooled:
        words += f" Runs of a group differ in {', '.join(found.pooled)}: intervals are not those of repeats."
    few = statistics.median(ranked["runs"])
    if few < 3:
        words += f" With {few:g} runs a group, intervals are wide and tests have little power."
    return words


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def _headline(found: Gathered, level: float) -> Table:
    """Groups by metrics, each a mean with its interval."""
    wide = {key: own.set_index("metric") for key, own in found.groups.groupby("group", sort=False)}
    rows = []
    for name in found.names[:_MOST_ROWS]:
        own = wide[name]
        cells = [Cell(str(name)), _count(own)]
        for metric in found.metrics:
            if metric not in own.index:
                cells.append(Cell(""))
                continue
            row = own.loc[metric]
            small = f"[{_number(row['low'])}, {_number(row['high'])}]" if pd.notna(row["low"]) else ""
            cells.append(Cell(_number(row["mean"]), float(row["mean"]), small))
        rows.append(Row(cells, best=name == found.names[0]))
    more = len(found.names) - len(rows)
    caption = f"Means with {level:.0%} t intervals {found.repeats}; bootstrap intervals stand in tables/groups.csv."
    if more:
        caption += f" The best {len(rows)} of {len(found.names)} groups; all are in that table."
    return Table(caption, [Column("group"), Column("runs", True), *(Column(one, True) for one in found.metrics)], rows)


def _count(own: pd.DataFrame) -> Cell:
    count = int(own["runs"].max())
    return Cell(str(count), float(count))


def _comparison(differences: pd.DataFrame, against: str, metric: str, config: ReportConfig) -> list[Section]:
    if differences.empty:
        return []
    ordered = differences.sort_values("difference", key=abs, ascending=False).head(_MOST_ROWS)
    rows = [
        Row([Cell(str(one["group"])), Cell(str(one["pairs"]), float(one["pairs"])),
             Cell(f"{one['difference']:+.4g}", float(one["difference"]),
                  f"[{one['low']:+.4g}, {one['high']:+.4g}]" if pd.notna(one["low"]) else ""),
             Cell(_number(one["p_holm"]), None if pd.isna(one["p_holm"]) else float(one["p_holm"]))])
        for one in differences.loc[ordered.index].to_dict("records")
    ]  # fmt: skip
    columns = [Column("group"), Column("pairs", True), Column(metric, True), Column("p (Holm)", True)]
    caption = (
        f"Differences from {against} over equal seeds, with {config.level:.0%} t intervals; at most {_MOST_ROWS} rows."
    )
    if not config.against:
        caption += " This group is the best of all by chance, too: look, but do not test; --against names another."
    return [Section(f"Differences from {against}", table=Table(caption, columns, rows))]


def _unfinished(found: Gathered) -> list[Section]:
    """What did not finish, and why."""
    if found.unfinished.empty:
        return []
    rows = []
    for run in found.unfinished.head(_MOST_ROWS).to_dict("records"):
        reason = run.get(contract.STATUS_REASON)
        told = reason if isinstance(reason, str) else "" if run["status"] in contract.OPEN else "no reason was left"
        cells = [_run_link(run), Cell(run["status"]), Cell(told), Cell(_text(run.get(contract.ATTEMPTS)))]
        rows.append(Row(cells))
    counts = ", ".join(f"{count} {name.lower()}" for name, count in found.unfinished["status"].value_counts().items())
    columns = [Column("run"), Column("end"), Column("reason"), Column("attempts")]
    return [Section("Runs that did not finish", table=Table(f"{counts}; at most {_MOST_ROWS} rows.", columns, rows))]


def _runs(found: Gathered) -> Table:
    minutes = wall_minutes(found.runs)
    metrics = list(found.metrics)
    rows = []
    for place, run in found.runs.iterrows():
        cells = [_run_link(run), Cell(str(run["group"])), Cell(_text(run.get(f"{contract.CONFIG_PREFIX}seed")))]
        cells += [Cell(_number(run[name]), None if pd.isna(run[name]) else float(run[name])) for name in metrics]
        spent = float(minutes[place])
        cells.append(Cell(_number(spent), None if pd.isna(spent) else spent))
        rows.append(Row(cells))
    columns = [Column("run"), Column("group"), Column("seed"), *(Column(name, True) for name in metrics)]
    return Table("Every finished run; each name opens it in the MLflow UI.", [*columns, Column("minutes", True)], rows)


def _run_link(run: Mapping[str, Any] | pd.Series) -> Cell:
    where = ui_links.run(ui_links.base(), str(run["experiment_id"]), str(run["run_id"]))
    return Cell(str(run["name"]), link=where)


def _constants(found: Gathered) -> Table:
    varied = set(varying(found.runs, apart=()))
    own = [name for name in found.runs if str(name).startswith(contract.CONFIG_PREFIX) and name not in varied]
    shared = [name for name in own if found.runs[name].notna().all()]
    values = {name.removeprefix(contract.CONFIG_PREFIX): found.runs[name] for name in shared}
    rows: Sequence[Row] = [Row([Cell(key), Cell(str(one.iloc[0]))]) for key, one in sorted(values.items())]
    return Table("Config values, in full in each run's config.yaml.", [Column("key"), Column("value")], rows, False)

"""A whole report: its page, figures and tables.

Why: docs/decisions/037-nobody-against-the-winner.md
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from labtrail.files import write_atomically
from labtrail.query.frames import paired_differences, varying
from labtrail.query.query import Query
from labtrail.query.selection import text_of_tag
from labtrail.report.codes import code_table, mark_of, mixture
from labtrail.report.config import ReportConfig
from labtrail.report.gather import ReportData, gather
from labtrail.report.page import Cell, Column, Row, Section, Table, page
from labtrail.report.pictures import best_last_table, files_of, pictures, wall_minutes
from labtrail.store import contract, ui_links

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
    data = gather(config)
    made = pictures(data)
    against = config.against or data.names[0]
    differences = paired_differences(data.runs, data.ranking.metric, "group", against, level=config.level)
    words = _findings(data, differences, against, chosen=bool(config.against))
    experiments = dict(zip(data.runs["run_id"], data.runs["experiment_id"], strict=True))
    sections = [
        Section("Results", list(filter(None, [words, mixture(data.runs)])), table=_headline(data, config.level)),
        *(Section(picture.title, picture=picture) for picture in made),
        *_comparison(differences, against, data.ranking.metric, config),
        *_unfinished(data),
        Section("Runs", table=_runs(data)),
        Section("Code", table=code_table(data.runs)),
        Section("Settings that all runs share", table=_constants(data)),
    ]
    title = f"{config.campaign or config.task}: {len(data.runs)} runs"
    tables = {
        "groups": data.groups,
        "runs": data.runs,
        "unfinished": data.unfinished,
        "paired_differences": differences,
        "best_and_last": best_last_table(data),
    }
    best = data.groups[data.groups["metric"] == data.ranking.metric]["mean"]
    return Report(
        html=page(title, _about(data), sections, experiments),
        sections=sections,
        figures=files_of(made),
        tables={f"tables/{name}.csv": table for name, table in tables.items()},
        metrics={
            "report/runs": float(len(data.runs)),
            "report/unfinished": float(len(data.unfinished)),
            "report/groups": float(len(data.names)),
            "report/best_mean": float(best.iloc[0]),
        },
        summary=words,
    )


def refresh(campaign: str, folder: Path) -> Path | None:
    """Writes the page of a round as it stands to ``FOLDER/CAMPAIGN.html``; None while no run of it has finished."""
    if not len(Query().campaign(campaign).rows()):
        return None
    target = folder / f"{campaign}.html"
    write_atomically(target, build(ReportConfig(campaign=campaign)).html.encode())
    return target


def _about(data: ReportData) -> str:
    """What was run, where and when, in one paragraph."""
    runs = data.runs
    tasks = ", ".join(sorted(runs[contract.TASK].unique()))
    days = sorted({f"{moment:%Y-%m-%d}" for moment in pd.to_datetime(runs["started"], utc=True)})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    commits = sorted({str(commit)[:10] for commit in runs.get(contract.GIT_COMMIT, pd.Series(dtype=object)).dropna()})
    devices = sorted({str(device) for device in runs.get(contract.DEVICE, pd.Series(dtype=object)).dropna()})
    parts = [f"{len(runs)} finished runs of {tasks} in {len(data.names)} groups, started {when}."]
    if data.left_out:
        parts.append(f"Left out: {data.left_out}.")
    if devices:
        parts.append(f"Run on {', '.join(devices[:3])}{' and others' if len(devices) > 3 else ''}.")
    if commits:
        parts.append(f"Code: {', '.join(commits[:4])}{f' and {len(commits) - 4} more' if len(commits) > 4 else ''}.")
    return " ".join(parts)


def _findings(data: ReportData, differences: pd.DataFrame, against: str, *, chosen: bool) -> str:
    """The result in words, with what it does not tell; only a group chosen beforehand can be tested against."""
    ranked = data.groups[data.groups["metric"] == data.ranking.metric]
    best = ranked.iloc[0]
    words = f"Best by {data.ranking.metric} ({data.ranking.words}): {best['group']}, {best['mean']:.4g}"
    if pd.notna(best["low"]):
        words += f" [{best['low']:.4g}, {best['high']:.4g}] over {best['runs']} runs."
    else:
        words += " from a single run, which says nothing about chance."
    tested = differences["p_holm"].notna()
    if chosen and tested.any():
        clear = int((differences["p_holm"] < _SIGNIFICANT).sum())
        words += f" {clear} of {int(tested.sum())} groups that can be tested differ from {against} over paired seeds"
        words += " (Holm's correction)."
    if data.pooled:
        words += f" Runs of a group differ in {', '.join(data.pooled)}: intervals are not those of repeats."
    few = statistics.median(ranked["runs"])
    if few < 3:
        words += f" With {few:g} runs a group, intervals are wide and tests have little power."
    return words


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def _headline(data: ReportData, level: float) -> Table:
    """Groups by metrics, each a mean with its interval."""
    wide = {key: key_rows.set_index("metric") for key, key_rows in data.groups.groupby("group", sort=False)}
    rows = []
    for name in data.names[:_MOST_ROWS]:
        column = wide[name]
        cells = [Cell(str(name)), _count(column)]
        for metric in data.metrics:
            if metric not in column.index:
                cells.append(Cell(""))
                continue
            row = column.loc[metric]
            small = f"[{_number(row['low'])}, {_number(row['high'])}]" if pd.notna(row["low"]) else ""
            cells.append(Cell(_number(row["mean"]), float(row["mean"]), small))
        rows.append(Row(cells, best=name == data.names[0]))
    more = len(data.names) - len(rows)
    caption = f"Means with {level:.0%} t intervals {data.repeats}; bootstrap intervals stand in tables/groups.csv."
    if more:
        caption += f" The best {len(rows)} of {len(data.names)} groups; all are in that table."
    return Table(
        caption, [Column("group"), Column("runs", True), *(Column(metric, True) for metric in data.metrics)], rows
    )


def _count(group_runs: pd.DataFrame) -> Cell:
    count = int(group_runs["runs"].max())
    return Cell(str(count), float(count))


def _comparison(differences: pd.DataFrame, against: str, metric: str, config: ReportConfig) -> list[Section]:
    if differences.empty:
        return []
    ordered = differences.sort_values("difference", key=abs, ascending=False).head(_MOST_ROWS)
    rows = [
        Row(
            [
                Cell(str(row["group"])),
                Cell(str(row["pairs"]), float(row["pairs"])),
                Cell(
                    f"{row['difference']:+.4g}",
                    float(row["difference"]),
                    f"[{row['low']:+.4g}, {row['high']:+.4g}]" if pd.notna(row["low"]) else "",
                ),
                Cell(_number(row["p_holm"]), None if pd.isna(row["p_holm"]) else float(row["p_holm"])),
            ]
        )
        for row in differences.loc[ordered.index].to_dict("records")
    ]
    columns = [Column("group"), Column("pairs", True), Column(metric, True), Column("p (Holm)", True)]
    caption = (
        f"Differences from {against} over equal seeds, with {config.level:.0%} t intervals; at most {_MOST_ROWS} rows."
    )
    if not config.against:
        caption += " This group is the best of all by chance, too: look, but do not test; --against names another."
    return [Section(f"Differences from {against}", table=Table(caption, columns, rows))]


def _unfinished(data: ReportData) -> list[Section]:
    """What did not finish, and why."""
    if data.unfinished.empty:
        return []
    rows = []
    for run in data.unfinished.head(_MOST_ROWS).to_dict("records"):
        reason = run.get(contract.STATUS_REASON)
        reason_text = (
            reason if isinstance(reason, str) else "" if run["status"] in contract.OPEN else "no reason was left"
        )
        cells = [_run_link(run), Cell(run["status"]), Cell(reason_text), Cell(text_of_tag(run, contract.ATTEMPTS))]
        rows.append(Row(cells))
    counts = ", ".join(f"{count} {name.lower()}" for name, count in data.unfinished["status"].value_counts().items())
    columns = [Column("run"), Column("end"), Column("reason"), Column("attempts")]
    return [Section("Runs that did not finish", table=Table(f"{counts}; at most {_MOST_ROWS} rows.", columns, rows))]


def _runs(data: ReportData) -> Table:
    minutes = wall_minutes(data.runs)
    metrics = list(data.metrics)
    rows = []
    for place, run in data.runs.iterrows():
        cells = [_run_link(run), Cell(str(run["group"])), Cell(text_of_tag(run, f"{contract.CONFIG_PREFIX}seed"))]
        cells += [Cell(_number(run[name]), None if pd.isna(run[name]) else float(run[name])) for name in metrics]
        spent = float(minutes[place])
        cells.append(Cell(_number(spent), None if pd.isna(spent) else spent))
        rows.append(Row(cells))
    columns = [Column("run"), Column("group"), Column("seed"), *(Column(name, True) for name in metrics)]
    return Table("Every finished run; each name opens it in the MLflow UI.", [*columns, Column("minutes", True)], rows)


def _run_link(run: Mapping[str, Any] | pd.Series) -> Cell:
    where = ui_links.run(ui_links.base(), str(run["experiment_id"]), str(run["run_id"]))
    return Cell(str(run["name"]), small=mark_of(dict(run)), link=where)


def _constants(data: ReportData) -> Table:
    varied = set(varying(data.runs, apart=()))
    keys = [name for name in data.runs if str(name).startswith(contract.CONFIG_PREFIX) and name not in varied]
    shared = [name for name in keys if data.runs[name].notna().all()]
    values = {name.removeprefix(contract.CONFIG_PREFIX): data.runs[name] for name in shared}
    rows: Sequence[Row] = [
        Row([Cell(key), Cell(str(key_values.iloc[0]))]) for key, key_values in sorted(values.items())
    ]
    return Table("Config values, in full in each run's config.yaml.", [Column("key"), Column("value")], rows, False)

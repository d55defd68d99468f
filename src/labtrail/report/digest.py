"""The story of some days, from the store and from git: what ran, what failed, what got better, what was changed."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from labtrail.errors import ConfigError
from labtrail.files import write_atomically
from labtrail.query import scores
from labtrail.query.frames import grouped
from labtrail.query.query import Query
from labtrail.report.codes import mark_of, reproduced
from labtrail.report.markdown import markdown
from labtrail.report.page import Cell, Column, Row, Section, Table, page
from labtrail.store import contract, ui_links

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_MOST_ROWS = 30
_ENDS = ("FINISHED", "FAILED", "KILLED")
# Where a config names its data, or the model that it is about; runs on another are no progress.
_SUBJECT = ("cfg.data.name", "cfg.data.train", "cfg.data.folder", "cfg.model")


def moment_of(text: str, now: datetime) -> datetime:
    """What somebody means by ``7d``, ``12h``, ``2w`` or a day.

    Raises:
        ConfigError: neither, or not in the past.
    """
    if match := re.fullmatch(r"(\d{1,4})([hdw])", text):
        return now - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError([f"--since {text}: expected 12h, 7d, 2w, or a day such as {now:%Y-%m-%d}"]) from None
    day = day if day.tzinfo else day.replace(tzinfo=UTC)
    if day >= now:
        raise ConfigError([f"--since {text}: lies in the future"])
    return day


def write_digest(since: datetime, now: datetime, folder: Path) -> tuple[str, list[Path]]:
    """The story as Markdown, and the files that hold it (Markdown and HTML).

    Args:
        since, now: what it is about; with time zones.
        folder: where the files go, named by the day.
    """
    title = f"{since:%Y-%m-%d} to {now:%Y-%m-%d}"
    query = Query().ended(*contract.ANY_END).with_archived()
    runs = query.runs()
    for name in ("started", "ended"):
        runs[name] = pd.to_datetime(runs[name], utc=True)
    sections = _sections(runs, query.metrics(), since, _commits(since))
    about = _about(runs, since)
    text = markdown(title, about, sections)
    files = [folder / f"digest-{now:%Y-%m-%d}.md", folder / f"digest-{now:%Y-%m-%d}.html"]
    write_atomically(files[0], f"{text}\n".encode())
    write_atomically(files[1], page(title, about, sections, {}).encode())
    return text, files


def _sections(runs: pd.DataFrame, metrics: Sequence[str], since: datetime, commits: Sequence[str]) -> list[Section]:
    ended = runs[(runs["ended"] >= since) & runs["status"].isin(_ENDS)]
    made = [
        Section("Work", table=_work(runs, since)),
        Section("Best so far", table=_best(runs, metrics, since)),
        Section("What did not finish", table=_failures(ended)),
        Section("Run again", table=_reproduced(runs, since)),
        Section("New figures", table=_figures(ended)),
        Section("Changes to the code", commits or ["None, or this is not a git checkout."]),
    ]
    return [section for section in made if section.words or (section.table and section.table.rows)]


def _about(runs: pd.DataFrame, since: datetime) -> str:
    started, ended = runs["started"] >= since, runs["ended"] >= since
    counts = {name.lower(): int((ended & (runs["status"] == name)).sum()) for name in _ENDS}
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    still = int(runs["status"].isin(contract.OPEN).sum())
    return f"{int(started.sum())} runs started, {words}; {still} still open."


def _work(runs: pd.DataFrame, since: datetime) -> Table:
    """A row per task and campaign that was worked on."""
    campaigns = runs.get(contract.CAMPAIGN, pd.Series(dtype=object)).reindex(runs.index).fillna("")
    frame = runs.assign(campaign=campaigns)
    rows = []
    for (task, campaign), group in grouped(frame, [contract.TASK, "campaign"]):
        started, ended = group["started"] >= since, group["ended"] >= since
        if not (started | ended).any():
            continue
        hours = (group["ended"] - group["started"])[ended].dt.total_seconds().sum() / 3600
        counts = [int(started.sum()), *(int((ended & (group["status"] == name)).sum()) for name in _ENDS)]
        numbers = [*map(float, counts), float(group["status"].isin(contract.OPEN).sum()), hours]
        rows.append(Row([Cell(str(task)), Cell(str(campaign)), *(Cell(f"{number:.3g}", number) for number in numbers)]))
    titles = ["started", "finished", "failed", "killed", "open", "hours of ended runs"]
    columns = [Column("task"), Column("campaign"), *(Column(name, True) for name in titles)]
    return Table("", columns, rows)


def _best(runs: pd.DataFrame, metrics: Sequence[str], since: datetime) -> Table:
    """For each task and data set, the best finished run before and now."""
    finished = runs[(runs["status"] == "FINISHED") & ~runs[contract.TASK].isin(contract.ABOUT_RUNS)]
    finished = finished.assign(data=[_data(row) for row in finished.to_dict("records")])
    rows = []
    for (task, data), part in grouped(finished, [contract.TASK, "data"]):
        known = [name for name in metrics if part[name].notna().any()]
        score = scores.score_from_tags(part.get(contract.SCORE, ()))
        names = scores.headline(known, score)
        # What is not a result of a test or score can neither grow better nor worse.
        if not names or not names[0].startswith(("test/", f"{contract.BEST_PREFIX}/")):
            continue
        metric = scores.direction_of(names[0], score)
        values = part[part[metric.metric].notna()]
        before = values[values["ended"] < since]
        ordered = values.sort_values(metric.metric, ascending=not metric.larger, kind="stable")
        rows.append(_best_row(str(task), str(data), metric, ordered.iloc[0], before))
    return Table(
        "By the first metric of the test set, over all runs on the same data, whatever their settings.",
        [Column("task"), Column("data"), Column("metric"), Column("before", True), Column("now", True), Column("run")],
        rows,
    )


def _best_row(task: str, data: str, metric: scores.Direction, best: pd.Series, before: pd.DataFrame) -> Row:
    now = float(best[metric.metric])
    earlier = metric.best(before[metric.metric]) if len(before) else None
    better = earlier is None or (now > earlier if metric.larger else now < earlier)
    cell = Cell("none", None) if earlier is None else Cell(f"{earlier:.4g}", earlier)
    cells = [Cell(task), Cell(data), Cell(metric.metric), cell, Cell(f"{now:.4g}", now, "new" if better else "")]
    return Row([*cells, _run_cell(best)], best=better)


def _data(row: Mapping[Any, Any]) -> str:
    named = [str(row[name]) for name in _SUBJECT if isinstance(row.get(name), str) and row[name]]
    return named[0] if named else ""


def _failures(ended: pd.DataFrame) -> Table:
    bad = ended[ended["status"] != "FINISHED"].sort_values("ended", ascending=False)
    rows = []
    for row in bad.head(_MOST_ROWS).to_dict("records"):
        reason = row.get(contract.STATUS_REASON)
        reason_text = reason if isinstance(reason, str) else "no reason was left"
        rows.append(
            Row(
                [
                    _run_cell(row),
                    Cell(str(row[contract.TASK])),
                    Cell(f"{row['ended']:%Y-%m-%d %H:%M}"),
                    Cell(reason_text),
                ]
            )
        )
    return Table(
        _at_most(len(bad), "The newest first."), [Column(name) for name in ("run", "task", "ended", "reason")], rows
    )


def _reproduced(runs: pd.DataFrame, since: datetime) -> Table:
    """Runs that somebody has repeated, with the verdict."""
    rows = []
    for row in runs.to_dict("records"):
        note = reproduced(row)
        if note and str(note["date"]) >= f"{since:%Y-%m-%d}":
            cells = [Cell(str(row[contract.TASK])), Cell(str(note["date"])), Cell(str(note["verdict"]))]
            rows.append(Row([_run_cell(row), *cells, Cell(str(note.get("why", ""))[:200])]))
    names = ("run", "task", "day", "verdict", "why")
    return Table(_at_most(len(rows), "By labtrail reproduce."), [Column(name) for name in names], rows[:_MOST_ROWS])


def _figures(ended: pd.DataFrame) -> Table:
    """Figures of the newest finished runs, each with its page."""
    done = ended[ended["status"] == "FINISHED"].sort_values("ended", ascending=False)
    rows = []
    base = ui_links.base()
    for row in done.head(_MOST_ROWS).to_dict("records"):
        files = Query().only([row["run_id"]]).artifacts("figures")["path"]
        for path in files:
            where = ui_links.artifact(base, str(row["experiment_id"]), str(row["run_id"]), path)
            rows.append(Row([Cell(Path(path).name, link=where), _run_cell(row), Cell(str(row[contract.TASK]))]))
    caption = _at_most(len(done), "Of runs that finished.")
    return Table(caption, [Column(name) for name in ("figure", "run", "task")], rows)


def _at_most(count: int, words: str) -> str:
    return words if count <= _MOST_ROWS else f"{words} Those of {_MOST_ROWS} of {count} runs."


def _run_cell(row: Mapping[Any, Any] | pd.Series) -> Cell:
    where = ui_links.run(ui_links.base(), str(row["experiment_id"]), str(row["run_id"]))
    return Cell(str(row["name"]), small=mark_of(dict(row)), link=where)


def _commits(since: datetime) -> list[str]:
    """One line for each commit of this checkout."""
    command = ["git", "log", f"--since={since.isoformat()}", "--date=short", "--pretty=format:%h %ad %an: %s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = done.stdout.splitlines()
    return lines[:_MOST_ROWS] + ([f"and {len(lines) - _MOST_ROWS} more"] if len(lines) > _MOST_ROWS else [])

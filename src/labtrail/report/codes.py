"""Which code the runs of a page were made by, whether that is one program, and which of them have been reproduced."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from labtrail.query.frames import grouped
from labtrail.query.selection import text_of_tag
from labtrail.report.page import Cell, Column, Row, Table
from labtrail.running.code_policy import joined_with
from labtrail.store import contract

_UNKNOWN = "unknown"


def code_table(runs: pd.DataFrame) -> Table:
    """A row for each program: its digest, its runs, the commit, and whether its source was kept.

    Args:
        runs: as of ``Query.runs``.
    """
    rows = []
    for (task, code), part in grouped(_with_code(runs), [contract.TASK, contract.CODE]):
        commits = sorted({text_of_tag(row, contract.GIT_COMMIT)[:10] for row in part.to_dict("records")} - {""})
        sources = sorted({text_of_tag(row, contract.SOURCE_KEPT) for row in part.to_dict("records")} - {""})
        dirty = any(text_of_tag(row, contract.GIT_DIRTY) == "true" for row in part.to_dict("records"))
        shown = ", ".join(commits) + (" and changes" if commits and dirty else "")
        kept = "; ".join(sources) or "not kept"
        verdicts = [verdict for row in part.to_dict("records") if (verdict := _verdict(row))]
        cells = [Cell(str(task)), Cell(str(code)), Cell(str(len(part)), float(len(part))), Cell(shown), Cell(kept)]
        rows.append(Row([*cells, Cell(_counted(verdicts))]))
    columns = [Column("task"), Column("code"), Column("runs", True), Column("commit"), Column("source")]
    caption = "The digest is of the definitions that a task reaches; labtrail diff RUN RUN shows the lines."
    return Table(caption, [*columns, Column("reproduced")], rows)


def mixture(runs: pd.DataFrame) -> str:
    """A sentence about tasks whose runs were made by several programs; empty if each is one, as far as is known."""
    words = []
    for task, part in grouped(_with_code(runs), [contract.TASK]):
        programs = list(_programs(part))
        continued = int(part.get(contract.CODES, pd.Series(dtype=object)).notna().sum())
        if len(programs) > 1:
            counts = ", ".join(f"{len(program)} of {code}" for code, program in programs)
            words.append(f"Mixed code: the runs of {task[0]} were made by {len(programs)} programs ({counts}).")
        if continued:
            words.append(f"{continued} runs of {task[0]} were begun by one code and continued by another.")
    return " ".join(words)


def mark_of(run: Mapping[Any, Any]) -> str:
    """What stands beside a run's name: several codes, or that it has been reproduced."""
    marks = ["several codes"] if text_of_tag(run, contract.CODES) else []
    if verdict := _verdict(run):
        marks.append(f"repeated: {verdict}")
    return ", ".join(marks)


def reproduced(run: Mapping[Any, Any]) -> Mapping[str, Any]:
    """The verdict on a run, as ``labtrail reproduce`` has left it: ``verdict``, ``date``, ``run``; empty if none."""
    try:
        return json.loads(text_of_tag(run, contract.REPRODUCED) or "{}")
    except ValueError:
        return {}


def _verdict(run: Mapping[Any, Any]) -> str:
    return str(reproduced(run).get("verdict", ""))


def _counted(verdicts: list[str]) -> str:
    return ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))


def _with_code(runs: pd.DataFrame) -> pd.DataFrame:
    codes = runs.get(contract.CODE, pd.Series(dtype=object)).reindex(runs.index)
    return runs.assign(**{contract.CODE: codes.where(codes.notna(), _UNKNOWN)})


def _programs(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs of each program: codes that are known to be the same are one; an unknown one may be any."""
    pairs = [
        pair for row in runs.to_dict("records") for pair in json.loads(text_of_tag(row, contract.CODE_SAME) or "[]")
    ]
    left = [code for code in dict.fromkeys(runs[contract.CODE]) if code != _UNKNOWN]
    while left:
        same = joined_with(left[0], pairs)
        yield left[0], runs[runs[contract.CODE].isin(same)]
        left = [code for code in left if code not in same]

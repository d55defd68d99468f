"""Pages say by which code their runs were made, and name a mixture."""

import json

import pandas as pd
import pytest

from labtrail.report.codes import code_table, mark_of, mixture
from labtrail.store import contract


def frame(*rows: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{"run_id": str(number), contract.TASK: "toy"} | row for number, row in enumerate(rows)])


A, B, C = ({contract.CODE: digest} for digest in "abc")


def same(*pair: str) -> dict[str, str]:
    return {contract.CODE_SAME: json.dumps([pair])}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([A, A], ""),
        ([{}, {}], ""),
        # What is not known may be the same.
        ([A, {}], ""),
        ([A, A, B], "Mixed code: the runs of toy were made by 2 programs (2 of a, 1 of b)."),
        ([A | same("a", "b"), B], ""),
        ([A | same("a", "b", "0" * 32), B, C | same("c", "b")], ""),
        ([A | same("a", "b"), B, C], "Mixed code: the runs of toy were made by 2 programs (2 of a, 1 of c)."),
        ([A | {contract.CODES: '[[0, "b"], [3, "a"]]'}], "1 runs of toy were begun by one code and continued"),
    ],
)
def test_a_mixture_is_named_and_codes_that_are_the_same_are_none(rows: list[dict[str, str]], says: str) -> None:
    words = mixture(frame(*rows))
    assert says in words
    assert bool(says) == bool(words)


def test_runs_of_two_tasks_are_no_mixture() -> None:
    assert mixture(frame(A, B | {contract.TASK: "other"})) == ""


def test_the_table_has_a_row_for_each_program() -> None:
    verdict = {contract.REPRODUCED: json.dumps({"verdict": "to the bit", "date": "2026-11-28"})}
    kept = {contract.GIT_COMMIT: "0123456789abcdef", contract.GIT_DIRTY: "true", contract.SOURCE_KEPT: "complete"}
    rows = code_table(frame(A | kept | verdict, A | kept, {})).rows
    assert [[cell.text for cell in row.cells] for row in rows] == [
        ["toy", "a", "2", "0123456789 and changes", "complete", "1 to the bit"],
        ["toy", "unknown", "1", "", "not kept", ""],
    ]


def test_marks_beside_a_name() -> None:
    assert mark_of(A) == ""
    assert mark_of({contract.CODES: "[]", contract.REPRODUCED: '{"verdict": "differs"}'}) == (
        "several codes, repeated: differs"
    )
    assert mark_of({contract.REPRODUCED: float("nan")}) == ""

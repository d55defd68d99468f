"""A number or an operator that is changed at random is asked about where the task reaches it, and nowhere else."""

import ast
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from labtrail.config import load_config
from labtrail.running.provenance.code import code_from
from labtrail.running.provenance.normalise import is_log_line
from labtrail.running.provenance.sources import Folder
from labtrail.running.registry import task_named
from labtrail.running.work import present_code
from tests.workspace import REPOSITORY

TASKS = ("spoter", "pamap2", "distill")
EACH = 10
_OPERATORS: dict[type[ast.operator], str] = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*"}


class Edit(NamedTuple):
    """A change of one place in a file."""

    path: Path
    start: int
    end: int
    text: str
    inside: str


def _offset(lines: list[str], line: int, column: int) -> int:
    # Columns count bytes; the files that are changed are ASCII.
    return sum(map(len, lines[: line - 1])) + column


def _edits(path: Path, module: str) -> Iterator[Edit]:
    source = path.read_text(encoding="utf-8")
    if not source.isascii():
        return
    lines = source.splitlines(keepends=True)
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.FunctionDef):
            continue
        name = f"{module}.{statement.name}"
        for body in statement.body:
            for node in _deciding(body):
                at = node.lineno, node.col_offset, node.end_lineno, node.end_col_offset
                if isinstance(node, ast.Constant):
                    start, end = _offset(lines, at[0], at[1]), _offset(lines, at[2] or 0, at[3] or 0)
                    yield Edit(path, start, end, f"({ast.unparse(node)} + 1)", name)
                elif isinstance(node, ast.BinOp):
                    start = _offset(lines, node.left.end_lineno or 0, node.left.end_col_offset or 0)
                    end = _offset(lines, node.right.lineno, node.right.col_offset)
                    if source[start:end].strip() in "+-*/" and source[start:end].strip():
                        yield Edit(path, start, end, f" {_OPERATORS[type(node.op)]} ", name)


def _deciding(statement: ast.stmt) -> Iterator[ast.Constant | ast.BinOp]:
    """Numbers and operators, but for those in the words of errors and of log lines, and in texts."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            continue
        if isinstance(node, ast.stmt) and is_log_line(node):
            continue
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield node
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            yield node
        waiting += ast.iter_child_nodes(node)


@pytest.mark.parametrize("name", TASKS)
def test_random_edits_are_asked_about_where_they_are_reached(name: str, tmp_path: Path) -> None:
    task = task_named(name)
    present = present_code(task, [load_config(task.config, task.default)])
    tree = tmp_path / "tree"
    shutil.copytree(REPOSITORY / "projects", tree / "projects", ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    sources = [tree, REPOSITORY / "src"]
    cache = tmp_path / "cache.json"
    assert code_from(present.roots, cache, Folder(sources)).digest == present.digest

    edits: dict[bool, list[Edit]] = {True: [], False: []}
    for path in sorted((tree / "projects").rglob("*.py")):
        module = ".".join(path.relative_to(tree).with_suffix("").parts).removesuffix(".__init__")
        for edit in _edits(path, module):
            edits[edit.inside in present.definitions].append(edit)
    draw = random.Random(name)
    for is_reached, places in edits.items():
        assert len(places) > EACH
        for edit in draw.sample(places, EACH):
            before = edit.path.read_text(encoding="utf-8")
            edit.path.write_text(f"{before[: edit.start]}{edit.text}{before[edit.end :]}", encoding="utf-8")
            changed = code_from(present.roots, cache, Folder(sources)).digest != present.digest
            edit.path.write_text(before, encoding="utf-8")
            assert changed == is_reached, edit

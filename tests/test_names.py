"""Names say what they hold: five words that say nothing are the name of nothing."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAY_NOTHING = {"own", "one", "found", "told", "given"}


def _names(source: str) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module binds."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(asname=str(name)):
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def _saying_nothing(source: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name in _names(source) if name.strip("_") in SAY_NOTHING]


@pytest.mark.parametrize("top", ["src", "projects"])
def test_no_name_says_nothing(top: str) -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / top).rglob("*.py"))
        for line, name in _saying_nothing(path.read_text(encoding="utf-8"))
    ]
    assert bad == [], "name it after what it holds"


@pytest.mark.parametrize(
    "planted",
    [
        "one = 1",
        "for one in cells: pass",
        "[given for given in cells]",
        "def own(): pass",
        "def a(told): pass",
        "lambda *, found: 0",
        "import numpy as one",
        "self._found = 1",
        "with a as own: pass",
    ],
)
def test_a_planted_name_is_seen(planted: str) -> None:
    assert _saying_nothing(planted)

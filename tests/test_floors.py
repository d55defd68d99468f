"""Imports go downward only: the platform knows no project, and few modules know MLflow."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = {
    "errors": 0, "contract": 0, "config": 0, "record": 0, "statistics": 0, "figures": 0, "files": 0, "links": 0,
    "seeding": 0, "signals": 0, "snapshot": 0, "compiling": 0, "scheduler": 0, "frames": 0, "example": 0, "pages": 0,
    "cron": 0, "selection": 0, "scores": 0,
    "fetch": 1, "database": 1, "stepgraph": 1, "peers": 1, "launch": 1, "store": 1, "batch": 1,
    "run": 2, "query": 2, "checkpoint": 2, "remat": 2, "fence": 2, "sync": 2, "handover": 2,
    "task": 3, "lookup": 3, "backend": 3, "upkeep": 3, "execute": 4,
    "campaign": 5, "study": 5, "members": 5, "tick": 5, "cli": 5, "report": 6,
    "archive": 7, "digest": 7, "guide": 7, "console": 8,
}  # fmt: skip
MAY_IMPORT = {"mlflow": {"store", "run", "query", "lookup", "backend", "sync", "handover"}, "optuna": {"study"}}
HEAVY = {"mlflow", "optuna", "torch"}


def modules() -> list[Path]:
    return sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "projects").rglob("*.py")])


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            if node.module in ("labtrail", "projects"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_to_its_floor(path: Path) -> None:
    place = path.relative_to(ROOT).parts
    for name in imports(path):
        root, *rest = name.split(".")
        if root in MAY_IMPORT:
            assert path.stem in MAY_IMPORT[root], f"{name} may only be imported by {MAY_IMPORT[root]}"
        if place[0] == "src":
            assert root != "projects", "the platform knows no project"
            own = place[2].removesuffix(".py")
            if root == "labtrail" and rest and rest[0] in FLOORS and own in FLOORS:
                assert FLOORS[rest[0]] <= FLOORS[own], f"{own} imports {name} from a floor above"
        if place[0] == "projects" and root == "projects" and len(rest) > 1 and len(place) > 2:
            assert rest[0] == place[1], "one project reaches into another"
        if path.stem == "analysis":
            assert rest[-1:] != ["train"], "analysis reads runs, not training code"


def test_every_module_of_the_platform_has_a_floor() -> None:
    found = [
        path for path in (ROOT / "src/labtrail").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    names = {path.stem for path in found} - {"__init__"}
    assert names == set(FLOORS)


def test_no_circle_among_modules() -> None:
    def name_of(path: Path) -> str:
        parts = path.relative_to(ROOT / "src" if "src" in path.parts else ROOT).with_suffix("").parts
        return ".".join(parts).removesuffix(".__init__")

    graph = {name_of(path): set(imports(path)) for path in modules()}

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"circle: {' -> '.join([*above, name])}"
        for other in graph[name]:
            if other in graph and other != name:
                visit(other, (*above, name))

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "projects").iterdir() if (path / "__main__.py").is_file())
)
def test_projects_are_importable_without_mlflow(name: str) -> None:
    """A typo is answered before MLflow is loaded, and machines without it can run the science."""
    code = f"import sys; sys.modules['mlflow'] = None; import projects.{name}.__main__"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": "src:."}, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_no_scheduler_is_loaded_where_none_is_used() -> None:
    code = "import sys, labtrail.execute; sys.exit(any(name.startswith('labtrail.batch.') and name != "
    code += "'labtrail.running.provenance' for name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": "src:."}, check=False
    )
    assert done.returncode == 0

"""Imports go downward only: the platform knows no project, few modules know MLflow, and no circle is closed."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from labtrail.running.provenance.code import ASKS, TELLS

ROOT = Path(__file__).resolve().parents[1]

# Wing or module of src/labtrail -> floor: it imports what stands on lower floors, and within itself.
FLOORS = {
    "errors": 1,
    "files": 1,
    "record": 1,
    "statistics": 1,
    "config": 2,
    "figures": 2,
    "stepgraph": 2,
    "store": 3,
    "jobs": 4,
    "query": 4,
    "running": 5,
    "sweeps": 6,
    "report": 6,
    "adapters": 6,
    "testing": 6,
    "commands": 7,
    "console": 8,
    "batch": 8,
}
# Wings that are named already and get their first module later.
PLANNED = {"templates": 7}
# Library -> modules that may import it: all below a name that ends with a dot.
MAY_IMPORT = {
    "mlflow": (
        "labtrail.store.connection",
        "labtrail.store.sync",
        "labtrail.query.query",
        "labtrail.query.find",
        "labtrail.running.claim",
        "labtrail.running.code_policy",
        "labtrail.running.earlier_config",
        "labtrail.running.writer",
        "labtrail.running.run_status",
        "labtrail.sweeps.mlflow_backend",
    ),
    "optuna": ("labtrail.sweeps.study",),
    "sqlalchemy": ("labtrail.store.", "labtrail.query.database"),
}
# Modules of labtrail that neither decide a number nor keep a training state: all below a name that ends with a dot.
# Those that do are listed in labtrail.running.provenance.code, as ASKS and TELLS.
DECIDE_NOTHING = (
    "labtrail",
    "labtrail.adapters.",
    "labtrail.batch.",
    "labtrail.commands.",
    "labtrail.console",
    "labtrail.errors",
    "labtrail.figures",
    "labtrail.files",
    "labtrail.jobs.",
    "labtrail.query.",
    "labtrail.report.",
    "labtrail.running",
    "labtrail.running.cadence",
    "labtrail.running.call",
    "labtrail.running.claim",
    "labtrail.running.cli",
    "labtrail.running.code_diff",
    "labtrail.running.code_fingerprint",
    "labtrail.running.code_policy",
    "labtrail.running.earlier_config",
    "labtrail.running.example",
    "labtrail.running.execute",
    "labtrail.running.fence",
    "labtrail.running.identity",
    "labtrail.running.kept_code",
    "labtrail.running.lazy",
    "labtrail.running.resume_check",
    "labtrail.running.members",
    "labtrail.running.pinned",
    "labtrail.running.processes",
    "labtrail.running.provenance.",
    "labtrail.running.pushed",
    "labtrail.running.rank_reports",
    "labtrail.running.registry",
    "labtrail.running.repeat",
    "labtrail.running.result",
    "labtrail.running.run",
    "labtrail.running.run_status",
    "labtrail.running.session",
    "labtrail.running.signals",
    "labtrail.running.start",
    "labtrail.running.task",
    "labtrail.running.watch",
    "labtrail.running.work",
    "labtrail.running.writer",
    "labtrail.store.",
    "labtrail.sweeps.",
    "labtrail.testing",
)
_ADDRESS = re.compile(r"(?:labtrail|projects)(?:\.\w+)+(?::\w+)?")
_CODE = re.compile(r"\b(?:import|from)\s+((?:labtrail|projects|mlflow|optuna|sqlalchemy)[\w.]*)")
# Calls whose string arguments are names of modules, or code.
_BY_NAME = {"import_module", "__import__", "lazy", "load", "run_module"}
_BY_CODE = {"exec", "eval", "compile"}


@cache
def sources() -> Mapping[str, str]:
    """Module -> its text."""
    paths = [*(ROOT / "src").rglob("*.py"), *(ROOT / "projects").rglob("*.py")]
    return {module_of(path): path.read_text() for path in sorted(paths)}


def module_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "src") if path.is_relative_to(ROOT / "src") else path.relative_to(ROOT)
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


def imports(module: str, text: str) -> Iterator[str]:
    """Modules that a module imports, those that it names in strings among them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            yield from _named_in_strings(node)


def _named_in_strings(call: ast.Call) -> Iterator[str]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    strings = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for text in strings:
        if function in _BY_NAME and (_ADDRESS.fullmatch(text) or text.partition(".")[0] in MAY_IMPORT):
            yield text.partition(":")[0]
        if function in _BY_CODE:
            yield from _CODE.findall(text)


def graph(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    arrows = {}
    for module, text in texts.items():
        named = {name if name in texts else name.rpartition(".")[0] for name in imports(module, text)}
        arrows[module] = {name for name in named if name in texts} - {module}
    return arrows


def wing(module: str) -> str:
    """What has a floor: the part of a name after ``labtrail``."""
    return module.split(".")[1]


def violations(texts: Mapping[str, str]) -> list[str]:
    """Imports that cross a floor or a wall, in words."""
    found = []
    for module, text in texts.items():
        root, *rest = module.split(".")
        for name in sorted(set(imports(module, text))):
            library = name.partition(".")[0]
            if library in MAY_IMPORT and not any(_is_in(module, allowed) for allowed in MAY_IMPORT[library]):
                found.append(f"{module} imports {name}; only {', '.join(MAY_IMPORT[library])} may")
            if root == "projects" and name.startswith("projects.") and rest and name.split(".")[1] != rest[0]:
                found.append(f"{module} imports {name}: a project reaches into another")
            if rest[-1:] == ["analysis"] and name.split(".")[2:3] == ["train"]:
                found.append(f"{module} imports {name}: an analysis reads runs, not training code")
        if root == "labtrail" and rest:
            found += _crossed(module, text)
    return found


def _is_in(module: str, allowed: str) -> bool:
    return module.startswith(allowed) if allowed.endswith(".") else module == allowed


def _crossed(module: str, text: str) -> Iterator[str]:
    for name in sorted(set(imports(module, text))):
        if name.partition(".")[0] == "projects":
            yield f"{module} imports {name}: the platform knows no project"
        if not name.startswith("labtrail.") or wing(name) not in FLOORS:
            continue
        above = FLOORS[wing(name)] > FLOORS[wing(module)]
        beside = FLOORS[wing(name)] == FLOORS[wing(module)] > 2 and wing(name) != wing(module)
        if above or beside:
            yield f"{module} (floor {FLOORS[wing(module)]}) imports {name} (floor {FLOORS[wing(name)]})"


def circles(texts: Mapping[str, str]) -> list[str]:
    """Circles among modules, each as a chain of names."""
    arrows, done, found = graph(texts), set[str](), []

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            found.append(" -> ".join([*above[above.index(name) :], name]))
        elif name not in done:
            for other in sorted(arrows[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in arrows:
        visit(name, ())
    return found


def test_imports_keep_to_floors_and_walls() -> None:
    assert violations(sources()) == []


def test_no_circle_among_modules() -> None:
    # The face imports lazily, and what a task names in a string is imported once it runs.
    assert circles({name: text for name, text in sources().items() if name != "labtrail"}) == []


PLANTED = {
    "an import from above": ("labtrail.store.locks", "from labtrail.running.claim import Claim\n"),
    "a second reader of MLflow, whose file is called query": ("projects.distill.query", "import mlflow\n"),
    "a string that is executed": ("labtrail.query.frames", "exec('from labtrail.report import build')\n"),
    "a module named in a string": (
        "labtrail.stepgraph.ir",
        "from importlib import import_module\nimport_module('labtrail.running.session')\n",
    ),
    "a project in the platform": ("labtrail.sweeps.tour", "def f():\n    from projects.spoter import model\n"),
    "a project in another": ("projects.spoter.data", "from projects.pamap2 import schema\n"),
    "optuna beside the study": ("labtrail.sweeps.campaign", "import optuna\n"),
    "a library named in a string": ("labtrail.jobs.local", "__import__('mlflow.entities')\n"),
    "a wing beside": ("labtrail.sweeps.tick", "from labtrail.report.build import build\n"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_caught(name: str) -> None:
    module, line = PLANTED[name]
    text = sources().get(module, "")
    assert violations({module: text}) == []
    (first, *_) = violations({module: f"{text}\n{line}"})
    assert first.startswith(f"{module} ")


def test_a_planted_circle_is_caught() -> None:
    texts = dict(sources())
    texts["labtrail.record"] += "\nfrom labtrail.running.task import Task\n"
    assert any("labtrail.record" in circle for circle in circles(texts))


def test_every_wing_of_the_platform_has_a_floor() -> None:
    found = {module.split(".")[1] for module in sources() if module.startswith("labtrail.")}
    for name in sorted(found - set(FLOORS)):
        pytest.fail(f"tests/test_floors.py: add {name!r} to FLOORS with the floor above all that it imports")
    assert found == set(FLOORS)
    assert not set(PLANNED) & found, "a planned wing is there: move its line from PLANNED to FLOORS"


def test_the_front_hall_is_small() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "src/labtrail"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert len({Path(path).relative_to("src/labtrail").parts[0] for path in tracked}) <= 20


@pytest.mark.parametrize("module", sources())
def test_module_says_what_it_is_for(module: str) -> None:
    assert ast.get_docstring(ast.parse(sources()[module])), f"{module}: begin with one line that says what it is for"


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an interpreter that has imported nothing."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "src:."},
        capture_output=True,
        text=True,
    )


LIGHT = (
    "labtrail",
    "labtrail.config",
    "labtrail.store.contract",
    "labtrail.errors",
    "labtrail.figures",
    "labtrail.files",
    "labtrail.record",
    "labtrail.statistics",
    "labtrail.store.fetch",
    "labtrail.running.task",
    "labtrail.running.cli",
    "labtrail.running.registry",
    "labtrail.console",
    "labtrail.commands.run",
    "labtrail.commands.campaign",
    "labtrail.commands.study",
    "labtrail.commands.report",
    "projects.spoter.tasks",
    "projects.pamap2.tasks",
    "projects.distill.tasks",
    "projects.profiler.tasks",
)


def test_light_modules_load_nothing_heavy() -> None:
    """A typo, ``--help`` and a config are answered before torch, MLflow and the like are loaded."""
    heavy = ["torch", "accelerate", "mlflow", "pandas", "matplotlib", "scipy", "optuna", "sklearn", "transformers"]
    code = f"import sys\nfor name in {LIGHT!r}:\n    __import__(name)\n"
    code += f"    assert not (loaded := [one for one in {heavy!r} if one in sys.modules]), (name, loaded)"
    done = fresh(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "projects").glob("*/__main__.py")))
def test_projects_train_without_mlflow(name: str) -> None:
    """Machines without it can run the science."""
    modules = [module for module in sources() if module.startswith(f"projects.{name}.")]
    code = "import sys\nsys.modules['mlflow'] = None\n"
    code += f"for name in {modules!r}:\n    __import__(name)"
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_no_scheduler_is_loaded_where_none_is_used() -> None:
    code = "import sys, labtrail.running.execute\n"
    code += "assert not [name for name in sys.modules if name.startswith('labtrail.jobs')]"
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_the_face_has_what_it_lists() -> None:
    code = "import labtrail as lt\n"
    code += "assert all(getattr(lt, name) is not None for name in lt.__all__)\n"
    code += "assert set(dir(lt)) == set(lt.__all__)\n"
    code += "try:\n    lt.Rekord\nexcept AttributeError:\n    pass\nelse:\n    raise SystemExit(1)"
    done = fresh(code)
    assert done.returncode == 0, done.stderr


def test_the_face_is_written_alike_for_type_checkers() -> None:
    tree = ast.parse((ROOT / "src/labtrail/__init__.py").read_text())
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname
    }
    table = next(
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_PUBLIC"
    )
    assert ast.literal_eval(table) == typed


def _listed(module: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if module == name or (name.endswith(".") and f"{module}.".startswith(name))]


def test_each_module_says_whether_it_decides_a_number() -> None:
    modules = [module for module in sources() if module.partition(".")[0] == "labtrail"]
    deciding = (*ASKS, *TELLS)
    for module in modules:
        # One list names it; a longer name in ASKS (query.frames) counts before its wing here.
        where = [bool(_listed(module, deciding)), bool(_listed(module, DECIDE_NOTHING))]
        assert any(where), f"{module}: name it in ASKS or TELLS of provenance/code.py, or in DECIDE_NOTHING here"
        assert where != [True, True] or module in deciding, module
    for name in (*deciding, *DECIDE_NOTHING):
        assert any(_listed(module, [name]) for module in modules), f"{name}: no such module"

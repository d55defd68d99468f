"""What has to agree in several places; each message names the file and the line to add."""

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import get_args

import pytest
import yaml

from labtrail.commands.fetch import known_datasets
from labtrail.config import describe, load_json
from labtrail.console import COMMANDS
from labtrail.jobs.backends import NAMES, queue_named
from labtrail.jobs.script import BatchConfig
from projects.distill.config import ALONE, METHOD_NAMES, DataName
from projects.distill.data import DATA_SETS
from projects.distill.methods import METHODS
from projects.pamap2.config import Fusion, ModelConfig
from projects.pamap2.fusions import FUSIONS

ROOT = Path(__file__).resolve().parents[1]


def agree(here: Collection[str], there: Collection[str], add_here: str, add_there: str) -> None:
    """Two sets of names; the message says what to add where."""
    for name in sorted(set(there) - set(here)):
        pytest.fail(add_here.format(name=name), pytrace=False)
    for name in sorted(set(here) - set(there)):
        pytest.fail(add_there.format(name=name), pytrace=False)


def test_methods_of_distill() -> None:
    agree(
        set(METHOD_NAMES) - set(ALONE),
        METHODS,
        'projects/distill/config.py: add "{name}" to Method',
        'projects/distill/methods.py: add to METHODS the line "{name}": MethodSpec(YourClass, 1.0)',
    )


def test_data_sets_of_distill() -> None:
    agree(
        get_args(DataName),
        DATA_SETS,
        'projects/distill/config.py: add "{name}" to DataName',
        'projects/distill/data.py: add to DATA_SETS the line "{name}": DataSet(your_reader, classes, flip=True)',
    )


def test_fusions_of_pamap2() -> None:
    agree(
        get_args(Fusion),
        FUSIONS,
        'projects/pamap2/config.py: add "{name}" to Fusion',
        'projects/pamap2/fusions.py: add to FUSIONS the line "{name}": YourClass()',
    )


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("projects/distill/README.md", METHOD_NAMES),
        ("projects/distill/README.md", get_args(DataName)),
        ("projects/pamap2/README.md", get_args(Fusion)),
    ],
)
def test_a_page_names_what_can_be_chosen(page: str, names: tuple[str, ...]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    agree([name for name in names if f"`{name}`" in text], names, f"{page}: name `{{name}}` and say what it is", "")


def test_the_help_names_every_fusion() -> None:
    (text,) = (text for key, _, text in describe(ModelConfig) if key == "fusion")
    agree(
        [name for name in get_args(Fusion) if re.search(rf"\b{name}\b", text)],
        get_args(Fusion),
        "projects/pamap2/config.py: name {name} in the line below ModelConfig.fusion, and say what it does",
        "",
    )


def test_the_hosted_sweep_has_every_fusion() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/fusion_sweep.yml").read_text())
    (job,) = workflow["jobs"].values()
    agree(
        job["strategy"]["matrix"]["fusion"],
        get_args(Fusion),
        ".github/workflows/fusion_sweep.yml: add {name} to matrix.fusion",
        ".github/workflows/fusion_sweep.yml: take {name} out of matrix.fusion, or add it to Fusion of "
        "projects/pamap2/config.py",
    )


def test_batch_schedulers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugins = project["entry-points"]["mlflow.project_backend"]
    agree(
        plugins,
        NAMES,
        'pyproject.toml: add to mlflow.project_backend the line {name} = "labtrail.sweeps.mlflow_backend:{name}"',
        "src/labtrail/jobs/backends.py: add {name} to SCHEDULERS",
    )
    for name in NAMES:
        queue = queue_named(name, 1.0)
        assert queue.name == name, f"src/labtrail/jobs/{name}.py: name = {name!r}"
        assert queue.longest_name > 40, f"src/labtrail/jobs/{name}.py: longest_name: a job's name ends with a key"


def test_commands_are_listed() -> None:
    files = {path.stem for path in (ROOT / "src/labtrail/commands").glob("*.py")} - {"__init__"}
    agree(
        {name for section in COMMANDS.values() for name in section},
        files,
        "src/labtrail/console.py: add {name} to COMMANDS with a few words, then make commands",
        "src/labtrail/commands/{name}.py: this file is missing; it has the click command ``command``",
    )


@pytest.mark.parametrize("path", sorted((ROOT / "slurm").glob("*.json")), ids=lambda path: path.name)
def test_resources_of_jobs_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert load_json(BatchConfig, path).template.is_file(), f"{path}: template: no such file"


def test_data_sets_to_fetch_are_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name, data_set in known_datasets().items():
        assert data_set.licence, f"datasets.py: {name}: say under which licence it may be used"

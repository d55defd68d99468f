"""Every config file loads, every entry point agrees with its task, and the command line is frozen."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from click.testing import CliRunner
from pydantic import BaseModel

from labtrail.commands.fetch import known_datasets
from labtrail.config import describe, flatten, load_config, neutral_fields
from labtrail.report.task import TASK as REPORT
from labtrail.running.registry import known_tasks, task_modules, tasks_of
from labtrail.running.task import Task
from labtrail.sweeps.cells import CampaignConfig, cells_of
from labtrail.sweeps.study import StudyConfig, trial_config
from labtrail.sweeps.tour import TASK as TOUR
from labtrail.sweeps.tour import TourConfig

ROOT = Path(__file__).resolve().parents[1]
# Project -> its tasks, as pyproject.toml lists them.
PROJECTS: dict[str, Sequence[Task[Any]]] = {module.split(".")[1]: tasks_of(module) for module in task_modules()}
# The platform has one of its own.
TASKS = {**known_tasks(), REPORT.name: REPORT}
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
# A campaign has groups and a study has a space; both lie beside the configs of the task that they run.
CAMPAIGNS = [path for path in CONFIGS if "groups" in yaml.safe_load(path.read_text())]
STUDIES = [path for path in CONFIGS if "space" in yaml.safe_load(path.read_text())]

# What others already write in their scripts; a key may be added, never renamed.
FROZEN = {
    "spoter": {
        "seed",
        "compute.precision",
        "compute.threads",
        "data.train",
        "data.validation",
        "data.test",
        "data.label_column",
        "data.classes",
        "data.first_label",
        "data.synthetic.classes",
        "data.synthetic.train",
        "data.synthetic.validation",
        "data.synthetic.test",
        "data.synthetic.frames",
        "data.synthetic.noise",
        "data.synthetic.seed",
        "model.heads",
        "model.layers",
        "model.feed_forward",
        "model.dropout",
        "augment.variant",
        "augment.probability",
        "augment.rounds",
        "augment.noise",
        "augment.frame_drop",
        "train.epochs",
        "train.optimizer",
        "train.learning_rate",
        "train.schedule",
        "train.warmup",
        "train.weight_decay",
        "train.label_smoothing",
        "train.batch_size",
        "train.max_frames",
        "train.clip_norm",
        "train.milestones",
        "train.baseline",
        "model.positions",
    },
    "pamap2": {
        "seed",
        "compute.precision",
        "compute.threads",
        "data.folder",
        "split.protocol",
        "split.test_subjects",
        "split.shares",
        "split.window",
        "split.step",
        "split.guard",
        "split.trim_s",
        "model.fusion",
        "model.encoder",
        "model.width",
        "model.layers",
        "model.dropout",
        "model.heads",
        "model.rank",
        "model.missing",
        "model.missing_rate",
        "model.modality_fold_size",
        "train.epochs",
        "train.batch_size",
        "train.accumulation",
        "train.learning_rate",
        "train.clip_norm",
        "train.class_weights",
        "train.patience",
        "train.rotation_deg",
        "train.compile",
        "model.modalities",
    },
    "pamap2-robustness": {"seed", "compute.precision", "compute.threads", "run", "dedicated", "noise"},
    "pamap2-analysis": {"seed", "compute.precision", "compute.threads", "runs"},
    "distill": {
        "seed",
        "compute.precision",
        "compute.threads",
        "method",
        "alpha",
        "teacher",
        "teacher_model",
        "data.name",
        "data.folder",
        "data.validation",
        "model.name",
        "model.width",
        "loss.weight",
        "loss.balance",
        "loss.temperature",
        "loss.attention_form",
        "train.epochs",
        "train.batch_size",
        "train.learning_rate",
        "train.schedule",
        "train.milestones",
        "train.label_smoothing",
        "train.channels_last",
        "train.fused_teacher",
    },
    "distill-bundle": {"seed", "compute.precision", "teacher", "students", "data.name", "train.epochs"},
    "distill-analysis": {"seed", "compute.precision", "compute.threads", "campaign", "runs"},
    "profiler": {
        "seed",
        "compute.precision",
        "compute.threads",
        "model",
        "settings",
        "batch_sizes",
        "sequence_length",
        "image_size",
        "optimizer",
        "clip_norm",
        "iterations",
        "warmup",
        "memory_limit_gib",
        "bandwidth_gb_s",
    },
    "profiler-remat": {
        "seed",
        "compute.precision",
        "compute.threads",
        "model",
        "settings",
        "batch_size",
        "memory",
        "times",
        "sequence_length",
        "image_size",
        "optimizer",
        "clip_norm",
        "iterations",
        "warmup",
        "solve_s",
        "targets",
        "batch_sizes",
        "torch_budgets",
    },
    "report": {
        "seed",
        "compute.precision",
        "compute.threads",
        "campaign",
        "task",
        "metric",
        "group",
        "curves",
        "against",
        "level",
    },
    "profiler-compare": {"seed", "compute.precision", "compute.threads", "runs"},
    "pamap2-prepare": {
        "seed",
        "compute.precision",
        "compute.threads",
        "source",
        "output",
        "hr.median",
        "split.protocol",
        "export.csv",
        "export.tensors",
        "export.manifests",
    },
    "spoter-attention": {
        "seed",
        "compute.precision",
        "compute.threads",
        "run",
        "epochs",
        "split",
        "max_frames",
        "export_pt",
    },
    "spoter-analysis": {
        "seed",
        "compute.precision",
        "compute.threads",
        "run",
        "epochs",
        "max_frames",
        "mbert",
        "statistics.resamples",
        "statistics.permutations",
        "intervention.epochs",
        "intervention.steps",
        "intervention.random_orders",
        "intervention.random_groups",
        "cases.count",
        "cases.rule",
        "language.glosses",
        "language.random_weights",
        "viewer.clips",
        "viewer.megabytes",
    },
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "path",
    [one for one in CONFIGS if one not in CAMPAIGNS + STUDIES],
    ids=lambda path: str(path.relative_to(ROOT / "configs")),
)
def test_config_file_loads(path: Path) -> None:
    folder = path.relative_to(ROOT / "configs").parts[0]
    task = TASKS.get(folder, TOUR)
    config = load_config(task.config, path)
    assert set(yaml.safe_load(path.read_text())) <= set(type(config).model_fields)


# Campaign -> number of its cells.
CELLS = {"distill/charlie.yaml": 276, "distill/digits_alpha.yaml": 46, "pamap2/subsets.yaml": 48}


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_campaign_has_its_cells(path: Path) -> None:
    name = str(path.relative_to(ROOT / "configs"))
    config = load_config(CampaignConfig, path)
    cells = cells_of(config, known_tasks()[config.task])
    assert name in CELLS, f'tests/test_configs.py: add to CELLS the line "{name}": {len(cells)}'
    assert len(cells) == CELLS[name]
    assert len({cell.name for cell in cells}) == CELLS[name]
    assert name.startswith(config.task), f"configs/{name}: a campaign of {config.task} lies in configs/{config.task}/"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_can_be_asked(path: Path) -> None:
    config = load_config(StudyConfig, path)
    ends = {key: one.choices[0] if one.choices else one.low for key, one in config.space.items()}
    asked = flatten(trial_config(config, known_tasks()[config.task], ends))
    assert {key: asked[key] for key in ends} == ends


def test_every_project_is_listed() -> None:
    folders = {path.parent.name for path in (ROOT / "projects").glob("*/__main__.py")}
    for name in sorted(folders - set(PROJECTS)):
        pytest.fail(f'pyproject.toml: add to tasks of [tool.labtrail] the line "projects.{name}.tasks"')
    assert folders == set(PROJECTS)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").iterdir() if path.is_dir()))
def test_every_folder_of_configs_has_a_task(name: str) -> None:
    assert name in TASKS, f"configs/{name}: no task is called so; its project's tasks.py gets one, or the folder goes"


@pytest.mark.parametrize("name", TASKS)
def test_task_has_configs_and_an_entry_point(name: str) -> None:
    task = TASKS[name]
    project = next((project for project, tasks in PROJECTS.items() if task in tasks), name)
    word = name.removeprefix(project).removeprefix("-")
    module = "labtrail.console report" if task is REPORT else f"projects.{project}"
    command = " ".join(["python -m", module, *([word] if word else []), "--config {config}"])
    assert task.default is not None, f"projects/{project}/tasks.py: task {name}: name a default config"
    assert task.default.is_file(), f"{task.default}: this file is missing; values of the task's smallest run go there"
    lines = [f"  {name}:", "    parameters:", f"      config: {{type: string, default: {task.default}}}"]
    lines.append(f'    command: "exec env PYTHONPATH=\\"src:$PYTHONPATH\\" {command}"')
    assert name in ENTRY_POINTS, "MLproject: add\n" + "\n".join(lines)
    assert ENTRY_POINTS[name]["parameters"]["config"]["default"] == str(task.default)
    assert command in ENTRY_POINTS[name]["command"]
    assert task.experiment_name == project, f"projects/{project}/tasks.py: task {name}: experiment={project!r}"


def test_a_project_begins_with_the_task_of_its_name() -> None:
    assert {project: tasks[0].name for project, tasks in PROJECTS.items()} == {name: name for name in PROJECTS}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_entry_point_is_one_command_that_replaces_its_shell(name: str) -> None:
    command = ENTRY_POINTS[name]["command"]
    assert command.startswith("exec ")
    assert not set(";|&<>") & set(command)


def test_parameters_are_strings() -> None:
    # MLflow leaves a run RUNNING when it refuses a path or uri itself.
    types = {entry["type"] for point in ENTRY_POINTS.values() for entry in point["parameters"].values()}
    assert types == {"string"}


@pytest.mark.parametrize("name", TASKS)
def test_keys_are_frozen_and_explained(name: str) -> None:
    found = list(describe(TASKS[name].config))
    keys = {key for key, _, _ in found}
    assert name in FROZEN, f"tests/test_configs.py: add to FROZEN the line {name!r}: {sorted(keys)},"
    assert FROZEN[name] <= keys, f"keys of {name} are gone, which others write: {sorted(FROZEN[name] - keys)}"
    for key, _, text in found:
        assert text, f"the config class of {name}: write one line of docstring under {key}"


def test_tour_stops_exist() -> None:
    config = load_config(TourConfig, TOUR.default)
    missing = sorted(set(PROJECTS) - {stop.project for stop in config.stops})
    assert not missing, f"configs/tour.yaml: add a stop of {missing}"
    for stop in config.stops:
        assert stop.task.name == f"{stop.project}-{stop.word}".removesuffix("-")
        load_config(stop.task.config, stop.config, list(stop.overrides.items()))


def test_known_datasets() -> None:
    assert {"wlasl50", "wlasl100", "pamap2", "cifar10", "cifar100", "svhn", "tinyimagenet"} <= set(known_datasets())


def test_labtrail_lists_its_commands() -> None:
    from labtrail.console import labtrail

    answer = CliRunner().invoke(labtrail, ["--help"])
    assert answer.exit_code == 0
    words = {line.split()[0] for line in answer.output.splitlines() if line.startswith("  ")}
    assert {"init", "ui", "digest", "archive", "restore", "campaign", "server", "sync", "run", "study"} <= words


# Field of a config class -> its default, which stands for all work that was done before there was such a field.
NEUTRAL: dict[str, str] = {
    "Compute.deterministic": "False",
    "Compute.tf32": "None",
    "Config.checkpoint": "Checkpointing(every=None, keep=2)",
    "Checkpointing.every": "None",
    "Checkpointing.keep": "2",
}


def _neutral_fields(cls: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for name, default in neutral_fields(cls).items():
        defined_in = next(base for base in reversed(cls.__mro__) if name in getattr(base, "__annotations__", {}))
        yield f"{defined_in.__name__}.{name}", repr(default)
    for field in cls.model_fields.values():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _neutral_fields(inner)


def test_defaults_of_neutral_fields_do_not_change() -> None:
    present = {name: default for task in known_tasks().values() for name, default in _neutral_fields(task.config)}
    for name, default in present.items():
        assert name in NEUTRAL, f"tests/test_configs.py: add to NEUTRAL the line {name!r}: {default!r},"
        assert NEUTRAL[name] == default, f"{name}: its default stands for finished work and must stay {NEUTRAL[name]}"
    assert NEUTRAL.keys() <= present.keys()

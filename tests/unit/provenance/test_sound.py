"""Nothing runs in a task that its digest does not reach: each stop of the tour under a profiler's hook."""

import json

import pytest

from tests.same_results import tour
from tests.workspace import REPOSITORY, Workspace

# Tasks that read another run read its config.yaml by them: its values are in that run's key.
READ_A_CONFIG = {f"labtrail.config.{name}" for name in ("load_config", "_read", "_StrictLoader", "written")}
BUNDLE = "projects.distill bundle --config configs/distill-bundle/digits.yaml --train.epochs 1 --teacher_model resnet14"
# A bundle begins and logs the runs of its members while it is at work: their names, configs and best epochs.
LOGS_MEMBERS = {
    "labtrail.config.flatten",
    "labtrail.config.to_yaml",
    "labtrail.record.Score",
    "projects.distill.tasks.training_title",
}
# Tasks that the tour does not show.
FURTHER = (
    "projects.pamap2 prepare --config configs/pamap2-prepare/synthetic.yaml",
    "projects.pamap2 robustness --config configs/pamap2-robustness/default.yaml --run latest",
    BUNDLE,
    "projects.distill analysis --config configs/distill-analysis/default.yaml",
    "projects.profiler remat --config configs/profiler-remat/tiny.yaml --targets 2 --batch_size 4",
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nothing_runs_that_is_not_reached(workspace: Workspace) -> None:
    workspace.variables["PYTHONPATH"] = f"src:.:{REPOSITORY}"
    stops = [*tour(), *(words.split() for words in FURTHER)]
    assert len(stops) > 15
    missed = {}
    for number, (module, *arguments) in enumerate(stops):
        output = workspace.folder / f"ran-{number}.json"
        watched = ("python", "-m", "tests.unit.provenance.watched", str(output), module, *arguments)
        ended = workspace.run(*watched, timeout=600)
        assert ended.returncode == 0, ended.stderr
        seen = json.loads(output.read_text())
        # Something of the task itself did run.
        assert any(name.startswith("projects.") for name in seen["ran"]), (module, arguments)
        known = READ_A_CONFIG | (LOGS_MEMBERS if "bundle" in arguments else set())
        if more := sorted(set(seen["ran"]) - set(seen["reached"]) - known):
            missed[" ".join([module, *arguments])] = more
    assert missed == {}

"""Torch's partitions are judged as our plans are: a canary for its unstable APIs, and common ground."""

import pytest
import torch

from labtrail.running.example import Example
from labtrail.stepgraph.roofline import MACHINES
from projects.profiler.beside import ground_of
from projects.profiler.families import example_on_paper
from projects.profiler.partitioner import Joint, Setting
from tests.unit.profiler.steps import MINIATURES, SMALL

MACHINE = MACHINES["a100"]
PLAIN = {**MINIATURES["bert-base"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KEEP_ALL, KEEP_NOTHING = Setting(1.0, "default", decomposed=False), Setting(0.0, "dp", decomposed=False)


def paper(name: str, settings: dict) -> Example:
    return example_on_paper(name, settings, SMALL, torch.device("cpu"))


@pytest.mark.parametrize(("name", "settings"), [("bert-base", PLAIN), ("resnet50", MINIATURES["resnet50"])])
def test_without_recomputation_both_need_nearly_the_same(name: str, settings: dict) -> None:
    ground = ground_of(paper(name, settings), MACHINE)
    found = Joint(paper(name, settings), decomposed=False).evaluate(KEEP_ALL, MACHINE)
    assert found.peak_bytes == pytest.approx(ground.base_bytes, rel=0.02)
    assert found.time_s == pytest.approx(ground.times.sum(), rel=0.03)


def test_a_budget_of_nothing_repeats_the_forward_pass() -> None:
    joint = Joint(paper("bert-base", PLAIN), decomposed=False)
    everything, nothing = joint.evaluate(KEEP_ALL, MACHINE), joint.evaluate(KEEP_NOTHING, MACHINE)
    assert 1.1 < nothing.time_s / everything.time_s < 1.6
    assert not nothing.draws_again
    assert joint.saved(KEEP_NOTHING) < joint.saved(KEEP_ALL)


def test_dropout_that_torch_draws_again_is_seen() -> None:
    joint = Joint(paper("bert-base", MINIATURES["bert-base"]), decomposed=False)
    assert joint.evaluate(KEEP_NOTHING, MACHINE).draws_again
    assert not joint.evaluate(KEEP_ALL, MACHINE).draws_again


def test_inductors_operators_are_smaller() -> None:
    whole = Joint(paper("resnet50", MINIATURES["resnet50"]), decomposed=False)
    parts = Joint(paper("resnet50", MINIATURES["resnet50"]), decomposed=True)
    assert parts.saved(Setting(1.0, "default", decomposed=True)) > 0
    # Without fusion the same arithmetic moves more bytes.
    assert parts.evaluate(KEEP_ALL, MACHINE).time_s > whole.evaluate(KEEP_ALL, MACHINE).time_s


def test_budgets_between_have_every_solver() -> None:
    settings = Joint(paper("bert-base", PLAIN), decomposed=False).settings((0.0, 0.5, 1.0))
    assert [(setting.budget, setting.solver) for setting in settings] == [
        (1.0, "default"),
        (0.0, "dp"),
        (0.5, "dp"),
        (0.5, "greedy"),
        (0.5, "ilp"),
        (1.0, "dp"),
    ]

"""Plans in torch's own forms do there what they say."""

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from labtrail.running.example import Example
from labtrail.stepgraph import export
from labtrail.stepgraph.export import checkpoint_contexts, knapsack_solver
from labtrail.stepgraph.rewrite import recomputable
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from projects.profiler.beside import gradients_of
from projects.profiler.families import example, example_on_paper
from projects.profiler.partitioner import Joint, Setting
from tests.unit.profiler.steps import MINIATURES, SMALL

PLAIN = {**MINIATURES["bert-base"], "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def traced_of(given: Example) -> TracedStep:
    optimizer = torch.optim.SGD(given.model.parameters())
    return trace(TrainingStep(given.model, optimizer, given.batch, gradients_of(given.loss)))


@pytest.mark.parametrize("name", ["bert-base", "gpt2", "resnet50"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_checkpointing_by_a_plan_gives_the_same_gradients(name: str, share: float) -> None:
    torch.manual_seed(0)
    given = example(name, MINIATURES[name], SMALL)
    # Batch norms count a repeated batch twice under torch's checkpointing; gradients do not depend on it.
    model, other = given.model.train(), copy.deepcopy(given.model).train()
    traced = traced_of(given)
    able = recomputable(traced.graph)
    contexts = checkpoint_contexts(traced, able[: round(share * len(able))])
    torch.manual_seed(1)
    given.loss(other, given.batch).backward()
    torch.manual_seed(1)
    checkpoint(given.loss, model, given.batch, use_reentrant=False, context_fn=contexts).backward()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None and two.grad is not None:
            assert torch.equal(one.grad, two.grad)


def test_torchs_partitioner_keeps_what_the_plan_keeps() -> None:
    given = example("bert-base", PLAIN, SMALL)
    traced = traced_of(given)
    able = recomputable(traced.graph)
    joint = Joint(example_on_paper("bert-base", PLAIN, SMALL, torch.device("cpu")), decomposed=False)
    kept = []
    for dropped in (able, able[::2], []):
        solver = knapsack_solver(traced, dropped)
        kept.append(joint.saved(Setting(0.5, solver, decomposed=False)))
    assert kept == sorted(kept)
    assert kept[0] < kept[1] < kept[2]


def test_the_same_plan_has_the_same_name() -> None:
    traced = traced_of(example("bert-base", PLAIN, SMALL))
    able = recomputable(traced.graph)
    first, again, other = (knapsack_solver(traced, one).uuid() for one in (able, able, able[1:]))
    assert first == again
    assert first != other


def test_variants_of_an_operator_are_one() -> None:
    names = ("aten.relu_.default", "aten.relu.default", "aten._native_batch_norm_legit_functional.default")
    assert [export._plain(name) for name in names] == ["relu", "relu", "native_batch_norm"]

"""A step that computes activations again is the same step: bit for bit, in less memory, exactly predicted."""

import random

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from labtrail.stepgraph.accountant import Accountant
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.ir import Phase
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.memory import held_by, peak_of
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.rewrite import recomputable, rewrite
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from labtrail.stepgraph.workspace import workspaces
from tests.sampling import examples
from tests.unit.profiler.steps import MINIATURES, RandomModel, miniature, random_step, step_of, twin
from tests.unit.profiler.test_equality import STEPS, generators


def chosen(traced: TracedStep, share: float, seed: int) -> set[int]:
    """Some of the activations that can be computed again."""
    found = recomputable(traced.graph)
    return set(random.Random(seed).sample(found, round(share * len(found))))


def assert_same_steps(step: TrainingStep, share: float, seed: int = 0) -> None:
    """Five steps by autograd and five by the rewritten graph."""
    step.take()
    other = twin(step)
    traced = in_place(trace(step))
    program = Program(rewrite(traced, chosen(traced, share, seed)).step)
    states = [generator.get_state() for generator in generators(step)]
    torch.manual_seed(7)
    expected = []
    for _ in range(STEPS):
        loss = other.take()
        expected.append([loss, *(gradient.clone() for gradient in other.gradients() if gradient is not None)])
    after = torch.get_rng_state()
    for one, state in zip(generators(step), states, strict=True):
        one.set_state(state)
    torch.manual_seed(7)
    for number in range(STEPS):
        step.clear()
        found = program.run(traced.inputs(step))
        assert all(torch.equal(a, b) for a, b in zip(found, expected[number], strict=True))
    assert torch.equal(torch.get_rng_state(), after)
    # Running statistics of batch norms among them: updated once a step.
    assert all(torch.equal(a, b) for a, b in zip(step.tensors(), other.tensors(), strict=True))


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("name", MINIATURES)
def test_family(name: str, share: float) -> None:
    assert_same_steps(miniature(name), share)


@pytest.mark.sampled
@examples(10)
# A slice of a result is changed in place, and the whole is read: the change leads to nobody but by its storage.
@example(choices=[8], share=1.0, seed=0)
@given(st.lists(st.integers(0, RandomModel.KINDS - 1), min_size=1, max_size=10), st.floats(0, 1), st.integers(0, 1000))
def test_random_plans_on_random_models(choices: list[int], share: float, seed: int) -> None:
    assert_same_steps(random_step(choices), share, seed)


@pytest.mark.parametrize("name", ["resnet50", "bert-base", "gpt2", "spoter", "distill", "pamap2", "swin-tiny"])
def test_three_peaks_agree(name: str) -> None:
    step = miniature(name)
    step.take()
    step.clear()
    traced = in_place(trace(step))
    smaller = rewrite(traced, chosen(traced, 0.7, seed=1)).step
    program, inputs = Program(smaller), smaller.inputs(step)
    held = liveness(smaller.graph).held()
    accountant = Accountant(inputs)
    program.run(inputs, accountant.watcher)
    assert [accountant.held[index] for index in range(program.first, program.nodes)] == held[program.first :].tolist()
    predicted = (held + workspaces(smaller))[program.first :].max()
    measured = peak_of(lambda: program.run(inputs), held_by(inputs), torch.device("cpu"))
    assert abs(predicted / measured - 1) <= 0.001


def test_fewer_activations_wait_at_the_end_of_the_forward_pass() -> None:
    traced = trace(miniature("bert-base"))
    smaller = rewrite(traced, recomputable(traced.graph)).step
    before, after = (liveness(one.graph).held()[one.graph.phase_starts()[Phase.BACKWARD]] for one in (traced, smaller))
    assert after < before


def test_nothing_dropped_is_the_same_graph_without_dead_code() -> None:
    traced = trace(miniature("bert-base"))
    same = rewrite(traced, ()).step
    assert len(same.graph.nodes) <= len(traced.graph.nodes)
    assert liveness(same.graph).peak == liveness(traced.graph).peak
    assert [node.op for node in same.graph.nodes if node.writes] == [
        node.op for node in traced.graph.nodes if node.writes
    ]


def test_dropout_is_repeated_from_the_remembered_state() -> None:
    traced = trace(miniature("tiny"))
    names = {traced.graph.nodes[traced.graph.storages[one].creator].name: one for one in recomputable(traced.graph)}
    smaller = rewrite(traced, [names["empty_like"]]).step
    ops = [(node.op, node.phase) for node in smaller.graph.nodes if node.op in ("remember", "repeat")]
    draws = [node for node in smaller.graph.nodes if node.op == "aten.bernoulli_.float"]
    assert ops == [("remember", Phase.FORWARD)]
    assert [node.phase for node in draws] == [Phase.FORWARD, Phase.BACKWARD]
    # The second draw is not a draw for whoever counts them.
    assert [node.random for node in draws] == [True, False]


class Overwritten(nn.Module):
    """A value is read, and then changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        z = (y * 2).tanh()
        return (z * y.relu_()).square().mean()


def test_what_was_overwritten_after_it_was_read_is_kept() -> None:
    step = step_of(Overwritten(), torch.randn(4, 8), lambda model, x: model(x))
    traced = trace(step)
    able = {traced.graph.nodes[traced.graph.storages[one].creator].op for one in recomputable(traced.graph)}
    assert "aten.addmm.default" not in able
    assert_same_steps(step, 1.0)


def test_what_cannot_be_computed_again_is_refused() -> None:
    traced = trace(step_of(Overwritten(), torch.randn(4, 8), lambda model, x: model(x)))
    kept = next(
        storage.id
        for storage in traced.graph.storages
        if traced.graph.nodes[storage.creator].op == "aten.addmm.default"
    )
    with pytest.raises(ValueError, match="cannot be computed again"):
        rewrite(traced, [kept])


def test_batch_norms_do_not_count_a_batch_twice() -> None:
    traced = trace(miniature("tiny"))
    smaller = rewrite(traced, recomputable(traced.graph)).step
    norms = [node for node in smaller.graph.nodes if node.batch_norm]
    first = [node for node in norms if node.phase is Phase.FORWARD]
    again = [node for node in norms if node.phase is Phase.BACKWARD]
    assert len(first) == 2
    assert again
    assert all(node.writes for node in first)
    assert not any(node.writes for node in again)
    assert all(smaller.calls[node.id].args[3:5] == (None, None) for node in again)

"""The simulator says of every plan what the rewritten step needs, byte for byte."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labtrail.stepgraph import rewrite as rewriting
from labtrail.stepgraph.accountant import Accountant
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.rewrite import recomputable, rewrite
from labtrail.stepgraph.simulate import Costs, Simulator
from labtrail.stepgraph.trace import TracedStep, trace
from tests.sampling import examples
from tests.unit.profiler.steps import MINIATURES, RandomModel, miniature, random_step
from tests.unit.profiler.test_rewrite import assert_same_steps

STATE_BYTES = torch.get_rng_state().numel()


def made_up_costs(nodes: int, seed: int) -> Costs:
    """Different seconds and workspaces at every node, so that each counts."""
    draw = np.random.default_rng(seed)
    return Costs(draw.integers(1, 1000, nodes) * 1e-6, draw.integers(0, 500, nodes), 1, STATE_BYTES)


def exactly(traced: TracedStep, dropped: set[int], costs: Costs) -> tuple[int, float]:
    """(peak, seconds) of the rewritten step."""
    found = rewrite(traced, dropped)
    need = liveness(found.step.graph).held() + costs.workspace[found.origins]
    times = np.where(found.remembers, 0.0, costs.times[found.origins])
    return int(need[found.step.graph.first_call :].max()), float(times.sum())


def assert_exact(traced: TracedStep, seed: int, plans: int) -> None:
    costs = made_up_costs(len(traced.graph.nodes), seed)
    simulator, draw = Simulator(traced.graph, costs), random.Random(seed)
    _, plain = exactly(traced, set(), costs)
    for _ in range(plans):
        share = draw.random()
        plan = {one for one in simulator.able if draw.random() < share}
        simulator.adopt(plan)
        peak, seconds = exactly(traced, plan, costs)
        assert simulator.peak_bytes == peak
        assert simulator.extra_time_s == pytest.approx(seconds - plain, abs=1e-9)
    simulator.adopt(())
    assert simulator.extra_time_s == 0
    assert simulator.peak_bytes == exactly(traced, set(), costs)[0]


@pytest.mark.parametrize("name", MINIATURES)
def test_family(name: str) -> None:
    assert_exact(in_place(trace(miniature(name))), 0, 5)


@pytest.mark.sampled
@examples(15)
@given(st.lists(st.integers(0, RandomModel.KINDS - 1), min_size=1, max_size=10), st.integers(0, 1000), st.booleans())
def test_random_plans_on_random_models(choices: list[int], seed: int, over: bool) -> None:
    traced = trace(random_step(choices))
    assert_exact(in_place(traced) if over else traced, seed, 4)


def test_operators_in_place_take_less_for_the_same_storages() -> None:
    traced = trace(miniature("resnet50"))
    smaller = in_place(traced)
    assert len(smaller.graph.storages) < len(traced.graph.storages)
    assert liveness(smaller.graph).held().sum() < liveness(traced.graph).held().sum()
    relus = [node for node in smaller.graph.nodes if node.op == "aten.relu.out"]
    assert relus
    assert all(node.writes == node.storages for node in relus)


# What the rewrite and the simulator take care of, undone: each has to be noticed.


def test_batch_statistics_counted_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting._Writer, "_repeated_call", lambda self, node: self._traced.calls[node.id])
    monkeypatch.setattr(rewriting, "repeated_sources", lambda node, graph: node.inputs)
    with pytest.raises(AssertionError):
        assert_same_steps(miniature("resnet50"), 1.0)


def test_random_numbers_that_are_not_repeated_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rewriting.replay, "repeat", lambda draw, *_: lambda _state, *args, **kwargs: draw(*args, **kwargs)
    )
    with pytest.raises(AssertionError):
        assert_same_steps(miniature("bert-base"), 1.0)


def test_aliases_that_are_not_followed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rewriting._Writer._write

    def wrong(self, old, places, call, *, recomputed):
        line = right(self, old, places, call, recomputed=recomputed)
        emitted = self._lines[line]
        if not recomputed:
            self._lines[line] = rewriting.replace(emitted, node=rewriting.replace(emitted.node, storages=old.storages))
        return line

    monkeypatch.setattr(rewriting._Writer, "_write", wrong)
    step = miniature("bert-base")
    step.take()
    step.clear()
    traced = trace(step)
    smaller = rewrite(traced, recomputable(traced.graph)).step
    program, inputs = Program(smaller), smaller.inputs(step)
    accountant = Accountant(inputs)
    program.run(inputs, accountant.watcher)
    held = liveness(smaller.graph).held()
    assert [accountant.held[index] for index in range(program.first, program.nodes)] != held[program.first :].tolist()


def test_dead_code_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "_needed", lambda lines, _outputs: list(range(len(lines))))
    with pytest.raises(AssertionError):
        assert_exact(trace(miniature("bert-base")), 0, 5)

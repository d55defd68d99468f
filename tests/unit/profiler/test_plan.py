"""Plans reach their targets, cost what they must, and say what cannot be reached."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from labtrail.stepgraph.costs import costs_of, peak_of_graph, target_bytes
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.plan import InfeasibleError, Plan, Planner
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.rewrite import rewrite
from labtrail.stepgraph.roofline import MACHINES, roofline
from labtrail.stepgraph.simulate import Costs, Simulator
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from projects.profiler.families import Sizes
from projects.profiler.remat import counted_peak
from tests.sampling import in_prove_but
from tests.unit.profiler.steps import RandomModel, miniature, random_step, step_of
from tests.unit.profiler.test_simulate import made_up_costs

BLOCKS = {
    "bert-base": Sizes(8, 32, 64),
    "gpt2": Sizes(8, 32, 64),
    "resnet50": Sizes(4, 12, 64),
    "distill": Sizes(8, 12, 32),
}


def planned(name: str, sizes: Sizes) -> tuple[TracedStep, Costs, int]:
    original = trace(miniature(name, sizes))
    traced = in_place(original)
    costs = costs_of(traced, roofline(traced, MACHINES["a100"]))
    return traced, costs, peak_of_graph(original, costs_of(original, np.zeros(len(costs.times))))


def every_plan(planner: Planner, simulator: Simulator) -> list[tuple[int, float]]:
    """(peak, seconds) of all choices, one decision apart from each other (a Gray code)."""
    count = len(planner.candidates)
    found = [(simulator.peak_bytes, simulator.extra_time_s)]
    for number in range(1, 2**count):
        simulator.flip(planner.candidates[(number & -number).bit_length() - 1])
        found.append((simulator.peak_bytes, simulator.extra_time_s))
    return found


def small_problem(seed: int) -> tuple[TracedStep, Costs]:
    """A random model with at most 14 activations to decide on."""
    draw = np.random.default_rng(seed)
    choices = draw.integers(0, RandomModel.KINDS, 6).tolist()
    while True:
        traced = in_place(trace(random_step(choices, batch=64)))
        costs = made_up_costs(len(traced.graph.nodes), seed)
        if len(Planner(traced.graph, costs).candidates) <= 14:
            return traced, costs
        choices.pop()


@pytest.mark.parametrize("seed", range(12))
def test_brute_force_finds_nothing_better(seed: int) -> None:
    traced, costs = small_problem(seed)
    planner = Planner(traced.graph, costs)
    every = every_plan(planner, Simulator(traced.graph, costs))
    least = min(peak for peak, _ in every)
    for target in np.linspace(least, planner.peak_bytes, 5):
        best = min(seconds for peak, seconds in every if peak <= target)
        found = planner.solve(target, 20)
        assert found.peak_bytes <= target
        assert found.extra_time_s == pytest.approx(best, rel=0.0101, abs=1e-12)
        assert found.bound_s <= best + 1e-12
    with pytest.raises(InfeasibleError):
        planner.solve(least - 1, 1)


@pytest.mark.parametrize("name", in_prove_but({"resnet50", "distill"}, BLOCKS))
def test_a_frontier_is_reached_monotone_and_nearly_proven(name: str) -> None:
    traced, costs, base = planned(name, BLOCKS[name])
    planner = Planner(traced.graph, costs, base)
    least = planner.least_bytes(2)
    assert least < 0.9 * base
    plans = list(planner.frontier(np.linspace(least, planner.peak_bytes, 5).tolist(), 5))
    assert len(plans) == 5
    assert all(plan.peak_bytes <= plan.target_bytes for plan in plans)
    assert all(first.extra_time_s <= second.extra_time_s for first, second in itertools.pairwise(plans))
    assert max(plan.gap for plan in plans[:-1]) <= 0.05
    for plan in plans:
        assert_as_predicted(traced, costs, plan)


def assert_as_predicted(traced: TracedStep, costs: Costs, plan: Plan) -> None:
    """The simulator's figures are those of the rewritten graph, run on fake tensors and counted."""
    nothing = costs._replace(workspace=np.zeros_like(costs.workspace))
    simulator = Simulator(traced.graph, nothing)
    simulator.adopt(plan.dropped)
    assert counted_peak(rewrite(traced, plan.dropped).step) == simulator.peak_bytes


def test_what_cannot_be_reached_names_the_least() -> None:
    traced, costs, base = planned("bert-base", BLOCKS["bert-base"])
    planner = Planner(traced.graph, costs, base)
    with pytest.raises(InfeasibleError, match=r"memory: 1,000 bytes .* are not reached .* the least that was found is"):
        planner.solve(1000, 2)
    least = planner.least_bytes(2)
    assert planner.solve(least, 2).peak_bytes <= least
    with pytest.raises(InfeasibleError):
        planner.solve(0.97 * least, 2)


def test_nothing_is_dropped_where_all_fits() -> None:
    traced, costs, _ = planned("distill", BLOCKS["distill"])
    found = Planner(traced.graph, costs).solve(1e12, 2)
    assert (found.dropped, found.extra_time_s, found.gap) == (frozenset(), 0.0, 0.0)


@pytest.mark.parametrize(("memory", "expected"), [(0.5, 500.0), (1, 1000.0), (800, 800.0)])
def test_memory_is_a_share_or_bytes(memory: float, expected: float) -> None:
    assert target_bytes(memory, 1000) == expected


class Smooth(nn.Module):
    """Differentiable often enough for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + nn.functional.dropout(x, 0.2)
        return self.norm(x)


def test_gradients_under_a_plan_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    model = Smooth().double()
    data = torch.randn(10, 6, dtype=torch.float64)

    def loss(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return network(x).sin().sum()

    step = step_of(model.train(), data, loss, lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    traced = in_place(trace(step))
    program = Program(rewrite(traced, Simulator(traced.graph, made_up_costs(len(traced.graph.nodes), 0)).able).step)
    torch.manual_seed(1)
    _, *gradients = program.run(traced.inputs(step))
    directions = [torch.randn_like(parameter) for parameter in model.parameters()]
    expected = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def moved(distance: float) -> float:
        with torch.no_grad():
            for one, direction in zip(model.parameters(), directions, strict=True):
                one.add_(direction, alpha=distance)
            torch.manual_seed(1)
            value = float(loss(model, data))
            for one, direction in zip(model.parameters(), directions, strict=True):
                one.sub_(direction, alpha=distance)
        return value

    assert (moved(1e-6) - moved(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-6)


def test_a_step_without_an_optimizer_step_is_planned_as_well() -> None:
    def run(model: nn.Module, _optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> torch.Tensor:
        value = model(batch).square().mean()
        value.backward()
        return value.detach()

    model = Smooth()
    step = TrainingStep(model, torch.optim.SGD(model.parameters()), torch.randn(64, 6), run)
    traced = in_place(trace(step))
    costs = made_up_costs(len(traced.graph.nodes), 1)
    planner = Planner(traced.graph, costs)
    assert planner.solve(planner.least_bytes(2), 2).extra_time_s > 0

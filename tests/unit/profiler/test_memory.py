"""Three peaks agree: static analysis, an accountant of living storages, and the allocator's own calls."""

import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from labtrail.stepgraph import compat
from labtrail.stepgraph.accountant import Accountant
from labtrail.stepgraph.liveness import (
    PARTS,
    activations,
    breakdown,
    held_with_swapping,
    liveness,
)
from labtrail.stepgraph.memory import held_by, node_peaks, peak_of, pieces
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from labtrail.stepgraph.workspace import workspaces
from projects.profiler.clock import CpuClock
from projects.profiler.swap import Files, Swapper, swappable
from tests.sampling import examples
from tests.unit.profiler.steps import MINIATURES, RandomModel, miniature, random_step, step_of
from tests.workspace import REPOSITORY

CPU = torch.device("cpu")


def ready(step: TrainingStep) -> tuple[TracedStep, Program, list[torch.Tensor]]:
    step.take()
    step.optimizer.zero_grad()
    traced = trace(step)
    return traced, Program(traced), traced.inputs(step)


def assert_accounted(step: TrainingStep) -> None:
    traced, program, inputs = ready(step)
    accountant = Accountant(inputs)
    program.run(inputs, accountant.watcher)
    assert [accountant.held[index] for index in range(program.first, program.nodes)] == (
        liveness(traced.graph).held()[program.first :].tolist()
    )


@pytest.mark.parametrize("name", MINIATURES)
def test_static_equals_the_accountant_at_every_node(name: str) -> None:
    assert_accounted(miniature(name))


@pytest.mark.sampled
@examples(10)
@given(st.lists(st.integers(0, RandomModel.KINDS - 1), min_size=1, max_size=10), st.integers(2, 9))
def test_static_equals_the_accountant_on_random_models(choices: list[int], batch: int) -> None:
    assert_accounted(random_step(choices, batch))


@pytest.mark.parametrize("name", MINIATURES)
def test_prediction_equals_the_allocator_at_every_node(name: str) -> None:
    traced, program, inputs = ready(miniature(name))
    predicted = liveness(traced.graph).held() + workspaces(traced)
    program.run(inputs)
    measured = node_peaks(traced, program, inputs)
    peak = measured[program.first :].max()
    whole = peak_of(lambda: program.run(inputs), held_by(inputs), CPU)
    assert whole == peak
    assert abs(predicted[program.first :].max() / peak - 1) <= 0.001
    in_passes = [node.id for node in traced.graph.nodes[program.first :] if node.phase != "optimizer"]
    assert np.abs(predicted[in_passes] - measured[in_passes]).max() <= 0.001 * peak


@pytest.mark.parametrize("name", ["bert-base", "gpt2", "llama-small", "t5-small", "vit-base", "swin-tiny", "spoter"])
def test_storages_alone_explain_transformers(name: str) -> None:
    traced, program, inputs = ready(miniature(name))
    peak = peak_of(lambda: program.run(inputs), held_by(inputs), CPU)
    assert abs(liveness(traced.graph).peak / peak - 1) <= 0.001


def test_parts_add_up() -> None:
    graph = trace(miniature("tiny")).graph
    life = liveness(graph)
    parts = breakdown(graph, life)
    assert list(parts) == list(PARTS)
    assert np.array_equal(np.sum(list(parts.values()), axis=0), life.held())
    step = miniature("tiny")
    assert parts["parameters"][0] == sum(
        one.numel() * one.element_size() for one in [*step.parameters(), *step.buffers()]
    )
    assert parts["gradients"][0] == 0 < parts["gradients"][-1]


def test_granularity_rounds_every_storage_up() -> None:
    graph = trace(miniature("tiny")).graph
    fine, coarse = liveness(graph), liveness(graph, 512)
    assert (coarse.bytes % 512 == 0).all()
    assert (coarse.bytes - fine.bytes < 512).all()
    assert (coarse.bytes >= fine.bytes).all()


def test_dropped_values_are_really_dropped() -> None:
    # Without dropping, everything ever made would be held at the end.
    traced, program, inputs = ready(miniature("bert-base"))
    life = liveness(traced.graph)
    assert life.held()[-1] < 0.8 * int(life.bytes.sum())
    accountant = Accountant(inputs)
    program.run(inputs, accountant.watcher)
    assert accountant.held[program.nodes - 1] == life.held()[-1]


def test_an_alias_keeps_its_storage() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            row = y[0]
            return (y.detach() * 2 + self.layer(x)).sum() + row.sum()

    step = step_of(Viewed(), torch.randn(3, 4), lambda m, x: m(x))
    assert_accounted(step)


@pytest.mark.parametrize("name", ["tiny", "bert-base", "distill", "spoter"])
def test_swapping_changes_memory_and_nothing_else(name: str) -> None:
    traced, program, inputs = ready(miniature(name))
    kept = [input_.detach().clone() for input_ in inputs]
    torch.manual_seed(3)
    expected = [one.clone() for one in program.run(inputs)]
    updated = [input_.detach().clone() for input_ in inputs]
    for one, before in zip(inputs, kept, strict=True):
        one.detach().copy_(before)

    chosen = swappable(traced.graph, activations(traced.graph))
    held: dict[int, int] = {}

    def count(index: int, values: list) -> None:
        held[index] = held_by(compat.leaves(values))

    torch.manual_seed(3)
    with closing(Files()) as shelf:
        swapper = Swapper(traced.graph, chosen, shelf, CpuClock())
        found = program.run(inputs, swapper.watcher._replace(executed=count))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(inputs, updated, strict=True))
    static = held_with_swapping(liveness(traced.graph), chosen)
    assert [held[index] for index in range(program.first, program.nodes)] == static[program.first :].tolist()
    assert static.max() < liveness(traced.graph).peak
    assert len(swapper.times()) == program.nodes - program.first


def test_markers_cut_the_calls_of_the_allocator() -> None:
    events = [compat.MemoryEvent(at, size) for at, size in enumerate([8, -8, 7919, -7919, 16, 7919, -7919, 4])]
    assert pieces(events, 7919) == [[8, -8], [16]]


def test_workspaces_leave_the_random_state_alone() -> None:
    traced = trace(miniature("tiny"))
    torch.manual_seed(11)
    before = torch.get_rng_state()
    assert workspaces(traced).max() > 0
    assert torch.equal(torch.get_rng_state(), before)


LARGE = """
import re, torch
from pathlib import Path
from torch.optim import AdamW
from projects.profiler.families import Sizes, example_on_paper
from labtrail.stepgraph.step import TrainingStep, plain_step
from labtrail.stepgraph.trace import trace
model, batch, loss = example_on_paper("bert-large", {}, Sizes(8, 512, 224), torch.device("cpu"))
step = TrainingStep(model.train(), AdamW(list(model.parameters()), fused=True), batch, plain_step(loss))
assert len(trace(step).graph.nodes) > 6000
# Not getrusage: its maximum is that of the process that started this one, too.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_bert_large_is_traced_without_its_memory() -> None:
    # Its weights and optimizer state alone are 4 GiB.
    variables = {"PYTHONPATH": "src:.", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", LARGE]
    done = subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 1_000_000

"""The profiler on a GPU: equality, the allocator's peaks, times and swapping through pinned memory."""

import functools

import numpy as np
import pytest
import torch

from labtrail.stepgraph import compat
from labtrail.stepgraph.liveness import activations, liveness
from labtrail.stepgraph.memory import node_peaks
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import trace
from projects.profiler.families import Sizes
from projects.profiler.profile import GraphProfiler
from projects.profiler.swap import Bandwidth, measure_bandwidth, swappable
from tests.unit.profiler.steps import miniature, step_of, twin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]


def on_gpu(name: str, batch: int = 16) -> TrainingStep:
    plain = miniature(name, Sizes(batch, 32, 64))
    loss = functools.partial(_loss, plain)
    return step_of(plain.model.cuda(), compat.to_device(plain.batch, torch.device("cuda")), loss)


def _loss(plain: TrainingStep, model: torch.nn.Module, batch: dict) -> torch.Tensor:
    return model(**batch).loss


@pytest.mark.parametrize("name", ["bert-base", "resnet50", "gpt2"])
def test_five_steps_are_the_same(name: str) -> None:
    step = on_gpu(name)
    step.take()
    other = twin(step)
    program_of = trace(step)
    program = Program(program_of)
    torch.manual_seed(1)
    expected = [other.take() for _ in range(5)]
    torch.manual_seed(1)
    for number in range(5):
        step.clear()
        assert torch.equal(program.run(program_of.inputs(step))[0], expected[number])


@pytest.mark.parametrize("name", ["bert-base", "resnet50", "gpt2"])
def test_predicted_peaks(name: str) -> None:
    step = on_gpu(name)
    step.take()
    step.clear()
    traced = trace(step)
    profiler = GraphProfiler(traced, step)
    profiler.run(3)
    profiler.measure_memory()
    profile = profiler.aggregate(Bandwidth(1e10, 1e10))
    first = traced.graph.first_call
    measured = node_peaks(traced, Program(traced), traced.inputs(step))[first:]
    error = np.abs(profile.predicted[first:] / measured - 1)
    assert np.median(error) <= 0.01
    assert error.max() <= 0.03


def test_swapping_through_pinned_memory() -> None:
    step = on_gpu("bert-base")
    step.take()
    traced = trace(step)
    profiler = GraphProfiler(traced, step, swappable(traced.graph, activations(traced.graph)))
    profiler.run(1)
    profile = profiler.aggregate(measure_bandwidth(torch.device("cuda")))
    assert profile.held.max() < liveness(traced.graph, profile.granularity).peak
    assert profiler.measured_peak() <= profile.peak_bytes * 1.03

"""Every model at full size, profiled with real tensors; up to 6 GiB."""

import gc
from collections.abc import Iterator

import pytest
import torch

from labtrail.stepgraph.accountant import Accountant
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.trace import trace
from projects.profiler.families import Sizes, example, names
from projects.profiler.profile import GraphProfiler
from projects.profiler.swap import Bandwidth
from tests.unit.profiler.steps import step_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
    gc.collect()


@pytest.mark.parametrize("name", names())
def test_prediction(name: str) -> None:
    torch.manual_seed(0)
    model, batch, loss = example(name, {}, Sizes(4, 32, 224))
    step = step_of(model.train(), batch, loss)
    traced = trace(step)
    step.take()
    step.optimizer.zero_grad()
    profiler = GraphProfiler(traced, step)
    profiler.run(1)
    profiler.measure_memory()
    profile = profiler.aggregate(Bandwidth(1e10, 1e10))
    measured = profiler.measured_peak()
    assert abs(profile.peak_bytes / measured - 1) <= 0.001
    assert profile.peaks is not None
    assert profile.peaks.max() == measured
    if name in ("bert-base", "bert-large", "gpt2", "llama-small", "t5-small", "vit-base", "swin-tiny"):
        assert abs(profile.held.max() / measured - 1) <= 0.001

    program, inputs = Program(traced), traced.inputs(step)
    accountant = Accountant(inputs)
    program.run(inputs, accountant.watcher)
    held = liveness(traced.graph).held()
    assert [accountant.held[index] for index in range(program.first, program.nodes)] == held[program.first :].tolist()

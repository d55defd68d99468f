"""The graph profiler: what watching a node costs, beside torch.profiler, and how long tracing takes."""

import functools
import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from labtrail.stepgraph.assemble import Ref
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.step import TrainingStep, plain_step
from labtrail.stepgraph.trace import TracedStep, trace
from projects.profiler.clock import CpuClock, Stopwatch
from projects.profiler.families import Sizes, example, example_on_paper
from tests.benchmark.timing import Row, compare, cpu_seconds

_REPEATS = 15
# What the project promises.
_PER_NODE_S, _TRACE_S = 6e-6, 10.0
# So small that its operators cost little beside what is measured.
_NARROW = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 64}


def rows() -> Iterator[Row]:
    """BERT-base's graph with narrow layers, and bert-large on paper."""
    # Kineto would tell that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    yield from _overhead()
    yield _running()
    yield _tracing()


def _ready() -> tuple[TracedStep, Program, list[Tensor]]:
    model, batch, loss = example("bert-base", _NARROW, Sizes(2, 8, 32))
    step = TrainingStep(model, AdamW(list(model.parameters()), fused=True), batch, plain_step(loss))
    step.take()
    step.optimizer.zero_grad()
    traced = trace(step)
    return traced, Program(traced), traced.inputs(step)


def generated(traced: TracedStep) -> Callable[..., object]:
    """The same graph as the source code that FX writes for it."""
    graph = fx.Graph()
    values: list[fx.Node] = []

    def given(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.id]
        return [given(one) for one in value] if isinstance(value, list | tuple) else value

    for index, call in enumerate(traced.calls):
        if call.target is None:
            values.append(graph.placeholder(f"given_{index}"))
        else:
            kwargs = {name: given(one) for name, one in call.kwargs.items()}
            values.append(graph.call_function(call.target, tuple(given(arg) for arg in call.args), kwargs))
    graph.output([values[output] for output in traced.graph.outputs])
    return fx.GraphModule(nn.Module(), graph)


def _overhead() -> Iterator[Row]:
    """Seconds that a node costs beyond FX's own code, in turn; medians of the differences."""
    traced, program, inputs = _ready()
    code = generated(traced)
    nodes = program.nodes - program.first

    def watched() -> None:
        watch = Stopwatch(CpuClock())
        program.run(inputs, watch.watcher)
        watch.times()

    def by_torch() -> None:
        with profile(activities=[ProfilerActivity.CPU]):
            bare()

    def bare() -> None:
        with torch.no_grad():
            code(*inputs)

    ours, theirs = [], []
    for _ in range(_REPEATS):
        plain = cpu_seconds(bare)
        ours.append((cpu_seconds(watched) - plain) / nodes)
        theirs.append((cpu_seconds(by_torch) - plain) / nodes)
    own, other = statistics.median(ours), statistics.median(theirs)
    yield Row(f"profile {nodes} nodes, added per node, beside the promise", own, _PER_NODE_S, _PER_NODE_S / own, 1.0)
    yield Row("profile, added per node, beside torch.profiler", own, other, other / own, 1.0)


def _running() -> Row:
    """The interpreter unwatched, beside FX's own code."""
    traced, program, inputs = _ready()
    code = generated(traced)

    def bare() -> None:
        with torch.no_grad():
            code(*inputs)

    return compare("run a traced step, beside generated code", functools.partial(program.run, inputs), bare, 0.8)


def _tracing() -> Row:
    """bert-large, batch 8, 512 tokens, model and all."""

    def traced() -> None:
        model, batch, loss = example_on_paper("bert-large", {}, Sizes(8, 512, 224), torch.device("cpu"))
        trace(TrainingStep(model, AdamW(list(model.parameters()), fused=True), batch, plain_step(loss)))

    traced()
    seconds = statistics.median(cpu_seconds(traced) for _ in range(3))
    return Row("trace bert-large, batch 8 x 512, beside the promise", seconds, _TRACE_S, _TRACE_S / seconds, 1.0)

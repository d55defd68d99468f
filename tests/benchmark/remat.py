"""Recomputation: how fast plans are judged and found, what they cost beside the promises, and beside torch's budgets.

Extra times are seconds by the roofline of an A100 in float32, forward and backward pass, dropout off.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from labtrail.running.example import Example
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.plan import InfeasibleError, Planner
from labtrail.stepgraph.rewrite import rewrite
from labtrail.stepgraph.roofline import MACHINES
from labtrail.stepgraph.simulate import Costs, Simulator
from projects.profiler.beside import Ground, ground_of, judged
from projects.profiler.families import FAMILIES, Sizes, example_on_paper
from tests.benchmark.timing import Row, compare

_MACHINE = MACHINES["a100"]
_BERT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_NO_DROPOUT: Mapping[str, dict[str, Any]] = {
    "bert-base": _BERT,
    "bert-large": _BERT,
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "t5-small": {"dropout_rate": 0.0},
    "swin-tiny": {**_BERT, "drop_path_rate": 0.0},
    "mobilenet-v2": {"classifier_dropout_prob": 0.0},
}
# Model, batch size, share of the peak, promised extra time as a share of the step.
_PROMISES = (("resnet50", 16, 0.4, 0.12), ("resnet152", 16, 0.5, 0.10), ("bert-base", 8, 0.4, 0.15))
_FLIP_S, _SOLVED_S, _LIMIT_S = 1e-3, 30.0, 20.0
_AT_A_TIME = 200
# Of torch, each with its three solvers and on two sets of operators.
_BUDGETS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)


def _paper(name: str, batch: int, sequence: int = 512) -> Example:
    return example_on_paper(name, _NO_DROPOUT.get(name, {}), Sizes(batch, sequence, 224), torch.device("cpu"))


def rows() -> Iterator[Row]:
    """All but the comparison with every setting of torch."""
    large = ground_of(_paper("bert-large", 8), _MACHINE)
    yield from _judging(large)
    yield _solving(large)
    for name, batch, share, promised in _PROMISES:
        yield _promise(name, batch, share, promised)


def _costs(ground: Ground) -> Costs:
    return Costs(ground.times, np.zeros(len(ground.times), np.int64))


def _judging(ground: Ground) -> Iterator[Row]:
    """One decision more or less on bert-large, beside rewriting the graph and adding its storages up."""
    simulator = Simulator(ground.traced.graph, _costs(ground))
    draw = np.random.default_rng(0)
    simulator.adopt(draw.choice(simulator.able, len(simulator.able) // 2, replace=False).tolist())
    some = draw.choice(simulator.able, _AT_A_TIME).tolist()

    def incremental() -> None:
        for one in some:
            simulator.flip(one)
            assert simulator.peak_bytes > 0

    def rewritten() -> None:
        assert liveness(rewrite(ground.traced, simulator.dropped).step.graph).peak > 0

    row = compare(
        "judge a plan of bert-large, beside rewriting it",
        incremental,
        rewritten,
        100.0,
        repeats=3,
        ours_per_reference=_AT_A_TIME,
    )
    yield row
    yield Row("judge a plan of bert-large, beside the promise", row.ours, _FLIP_S, _FLIP_S / row.ours, 1.0)


def _solving(ground: Ground) -> Row:
    """A plan for bert-large at half of its peak, from nothing; wall seconds, one thread."""
    began = time.perf_counter()
    ground.planner().solve(0.5 * ground.base_bytes, _SOLVED_S)
    seconds = time.perf_counter() - began
    return Row("plan bert-large, beside the promise (wall)", seconds, _SOLVED_S, _SOLVED_S / seconds, 1.0)


def _promise(name: str, batch: int, share: float, promised: float) -> Row:
    ground = ground_of(_paper(name, batch), _MACHINE)
    total = float(ground.times.sum())
    plan = ground.planner().solve(share * ground.base_bytes, _LIMIT_S)
    what = f"{name} B{batch} in {share:.0%} of its peak, {plan.extra_time_s / total:.1%} extra, gap {plan.gap:.1%}"
    return Row(what, plan.extra_time_s, promised * total, promised * total / plan.extra_time_s, 1.0)


def beside_torch() -> Iterator[Row]:
    """Each model at every budget, solver and set of operators of torch; the setting where torch comes nearest."""
    for name in FAMILIES:
        yield _nearest(name)


def _nearest(name: str) -> Row:
    ground = ground_of(_paper(name, 8, 128), _MACHINE)
    planner = ground.planner()
    planner.greedy(0)
    found: dict[int, float] = {}
    for one, extra in judged(iter(lambda: _paper(name, 8, 128), None), _MACHINE, _BUDGETS):
        found[one.peak_bytes] = min(extra, found.get(one.peak_bytes, np.inf))
    least = float(ground.times.sum()) * 1e-6
    pairs = [(_own(planner, peak) + least, extra + least) for peak, extra in found.items()]
    own, theirs = min(pairs, key=lambda pair: pair[1] / pair[0])
    better = sum(mine < other or mine == other == least for mine, other in pairs)
    what = f"{name}: cheaper at {better} of {len(pairs)} peaks of torch; nearest"
    return Row(what, own, theirs, theirs / own, 1.0)


def _own(planner: Planner, peak: int) -> float:
    try:
        return planner.solve(peak, 3.0).extra_time_s
    except InfeasibleError:
        return np.inf

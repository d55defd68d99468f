"""labtrail's plans and torch's activation memory budgets on the same ground: both passes of a step, by a roofline."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from tqdm import tqdm

import labtrail as lt
from labtrail.running.remat import Loss
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.plan import InfeasibleError, Planner
from labtrail.stepgraph.roofline import MACHINES, Machine, roofline
from labtrail.stepgraph.simulate import Costs
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from projects.profiler.config import RematConfig
from projects.profiler.partitioner import Joint, Judged
from projects.profiler.stepping import paper_example


class Ground(NamedTuple):
    """Forward and backward pass of a model, storages alone.

    Attributes:
        traced: with elementwise operators in place.
        times: seconds of its nodes.
        base_bytes: peak with all kept and nothing in place.
    """

    traced: TracedStep
    times: np.ndarray
    base_bytes: int

    def planner(self) -> Planner:
        """Looks for plans of it."""
        nothing = np.zeros(len(self.times), np.int64)
        return Planner(self.traced.graph, Costs(self.times, nothing), self.base_bytes)


def ground_of(example: lt.Example, machine: Machine) -> Ground:
    """Traces the two passes.

    Args:
        example: on fake tensors; it is used up.
        machine: of the roofline.
    """
    parameters = [parameter for parameter in example.model.parameters() if parameter.requires_grad]
    step = TrainingStep(example.model.train(), SGD(parameters), example.batch, gradients_of(example.loss))
    original = trace(step)
    traced = in_place(original)
    return Ground(traced, roofline(traced, machine), liveness(original.graph).peak)


def gradients_of(loss: Loss) -> Callable[[nn.Module, Optimizer, Any], Tensor]:
    """The step that only computes gradients."""

    def run(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        return value.detach()

    return run


def judged(
    examples: Iterator[lt.Example], machine: Machine, budgets: Sequence[float]
) -> Iterator[tuple[Judged, float]]:
    """(what torch reaches, its extra seconds over the same operators without recomputation) for all settings.

    Args:
        examples: a fresh one for each of torch's two sets of operators.
        machine: of the roofline.
        budgets: which.
    """
    for decomposed, example in zip((False, True), examples, strict=False):
        joint = Joint(example, decomposed=decomposed)
        settings = joint.settings(budgets)
        bar = tqdm(settings, desc="torch's budgets", unit="setting", leave=False, disable=None)
        verdicts = [joint.evaluate(budget, machine) for budget in bar]
        # Some sets of operators are fastest with a little recomputation: that is what others are compared with.
        base = min(verdict.time_s for verdict in verdicts)
        yield from ((verdict, verdict.time_s - base) for verdict in verdicts)


def beside_torch(config: RematConfig, device: torch.device) -> tuple[pd.DataFrame, int]:
    """(one row per setting of torch with labtrail's cost at the same peak, peak with all kept in bytes)."""
    machine = MACHINES[config.times]

    def example() -> lt.Example:
        return paper_example(config, config.batch_size, device)

    ground = ground_of(example(), machine)
    planner, total = ground.planner(), float(ground.times.sum())
    planner.greedy(0)
    rows = []
    best: dict[int, tuple[float, float]] = {}
    for verdict, extra in judged(iter(example, None), machine, config.torch_budgets):
        peak = verdict.peak_bytes
        if peak not in best:
            best[peak] = _plan_below(planner, peak, config.solve_s, total)
        rows.append(
            {
                "target_bytes": verdict.setting.budget * ground.base_bytes,
                "peak_bytes": peak,
                "extra_time_s": extra,
                "extra_time_fraction": extra / total,
                "solver": verdict.setting.solver,
                "gap": np.nan,
                "budget": verdict.setting.budget,
                "decomposed": verdict.setting.decomposed,
                "draws_again": verdict.draws_again,
                "own_extra_time_fraction": best[peak][0],
                "own_gap": best[peak][1],
            }
        )
    return pd.DataFrame(rows), ground.base_bytes


def _plan_below(planner: Planner, peak: int, limit_s: float, total_s: float) -> tuple[float, float]:
    """(extra time as a share, gap) of a plan below a peak; NaN where there is none."""
    try:
        plan = planner.solve(peak, limit_s)
    except InfeasibleError:
        return np.nan, np.nan
    return plan.extra_time_s / total_s, plan.gap

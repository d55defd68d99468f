"""The task profiler-remat: a training step that needs less memory, for the least time, and is the same to the bit."""

import gc
import json
import logging
import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

import labtrail as lt
from labtrail.stepgraph import compat
from labtrail.stepgraph.accountant import Accountant
from labtrail.stepgraph.costs import costs_of, device_of, peak_of_graph, target_bytes
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.liveness import activations, liveness
from labtrail.stepgraph.memory import held_by, peak_of
from labtrail.stepgraph.mu_two import Candidate, Choice, choose
from labtrail.stepgraph.plan import InfeasibleError, Plan, Planner
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.recompute import recomputations
from labtrail.stepgraph.rewrite import rewrite
from labtrail.stepgraph.roofline import MACHINES, roofline
from labtrail.stepgraph.simulate import Costs, Simulator
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace
from projects.profiler import families, remat_charts
from projects.profiler.beside import beside_torch
from projects.profiler.clock import clock_of
from projects.profiler.config import RematConfig
from projects.profiler.fitting import free_bytes, out_of_memory_explained
from projects.profiler.profile import GraphProfiler
from projects.profiler.stepping import give_state, in_memory, on_paper
from projects.profiler.swap import Bandwidth
from projects.profiler.tables import duration, size

_log = logging.getLogger("labtrail")


class DifferentStepError(lt.LabtrailError):
    """A rewritten step that does not do what the step does."""


class Prepared(NamedTuple):
    """A step before it is planned.

    Attributes:
        original: as it was traced.
        traced: with elementwise operators in place; what is planned and rewritten.
        costs: of ``traced``.
        base_bytes: peak of the original.
        base_time_s: of all its nodes.
    """

    original: TracedStep
    traced: TracedStep
    costs: Costs
    base_bytes: int
    base_time_s: float


def plan_and_run(config: RematConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record per batch size, with it as step; that of ``batch_size`` carries plan, frontier and figures."""
    rows = []
    for batch_size in _batch_sizes(config):
        prepared = _prepared(config, batch_size, run.accelerator)
        planner = Planner(prepared.traced.graph, prepared.costs, prepared.base_bytes)
        try:
            plan = planner.solve(target_bytes(config.memory, prepared.base_bytes), config.solve_s)
        except InfeasibleError as error:
            if batch_size == config.batch_size:
                raise
            _log.warning("batch size %s is left out: %s", batch_size, error)
            continue
        metrics = _figures_of(plan, prepared) | _run(config, batch_size, prepared, plan, run.accelerator)
        rows.append({"batch_size": batch_size, **metrics})
        _log.info("%s", _sentence(config, batch_size, metrics))
        files: dict[str, Any] = {}
        if batch_size == config.batch_size:
            files = _files(config, prepared, planner, plan, run.accelerator)
        table = pd.DataFrame(rows)
        files |= {"tables/batch_sizes.csv": table}
        files["figures/by_batch.png"] = remat_charts.by_batch(table, f"{config.model}, {_asked(config)}")
        yield lt.Record(batch_size, lt.named("remat", metrics), files)
        gc.collect()


def _batch_sizes(config: RematConfig) -> list[int]:
    chosen = config.batch_sizes or (max(1, config.batch_size // 2),)
    return sorted({*chosen, config.batch_size})


def _asked(config: RematConfig) -> str:
    return f"memory {config.memory:.0%}" if config.memory <= 1 else f"memory {size(config.memory)}"


def _prepared(config: RematConfig, batch_size: int, accelerator: Accelerator) -> Prepared:
    original = trace(on_paper(config, batch_size, accelerator))
    traced = in_place(original)
    if config.times == "measured":
        times = _measured_times(config, batch_size, traced, accelerator)
    else:
        times = roofline(traced, MACHINES[config.times])
    costs = costs_of(traced, times)
    base = peak_of_graph(original, costs_of(original, np.zeros(len(times))))
    return Prepared(original, traced, costs, base, float(times.sum()))


def _measured_times(config: RematConfig, batch_size: int, traced: TracedStep, accelerator: Accelerator) -> np.ndarray:
    with out_of_memory_explained(f"{config.model}, batch size {batch_size}"):
        step = in_memory(config, batch_size, accelerator)
        step.take()
        step.clear()
        profiler = GraphProfiler(traced, step)
        profiler.run(config.iterations, config.warmup)
    return profiler.aggregate(Bandwidth(math.inf, math.inf)).run_times


def _figures_of(plan: Plan, prepared: Prepared) -> dict[str, float]:
    return {
        "peak_bytes": float(plan.peak_bytes),
        "baseline_peak_bytes": float(prepared.base_bytes),
        "target_bytes": float(plan.target_bytes),
        "extra_time_fraction": plan.extra_time_s / prepared.base_time_s,
        "bound_time_fraction": plan.bound_s / prepared.base_time_s,
        "gap": plan.gap,
        "dropped_activations": float(len(plan.dropped)),
    }


def _run(
    config: RematConfig, batch_size: int, prepared: Prepared, plan: Plan, accelerator: Accelerator
) -> dict[str, float]:
    """Runs the planned step, and the step as it is where that fits; checks that they are the same.

    Raises:
        DifferentStepError: they are not, or the memory is not what was predicted.
    """
    what = f"{config.model}, batch size {batch_size}"
    lean = rewrite(prepared.traced, plan.dropped).step
    counted = counted_peak(lean)
    if counted != (static := liveness(lean.graph).peak):
        raise DifferentStepError(f"{what}: {counted:,} bytes counted on fake tensors, {static:,} predicted")
    fits = prepared.base_bytes + _copies(prepared) <= free_bytes(accelerator.device)
    with out_of_memory_explained(what):
        step = in_memory(config, batch_size, accelerator)
        give_state(step, lean.trained)
        metrics: dict[str, float] = {}
        if fits:
            require_same(what, step, prepared.original, lean)
            base = _timed(config, step, prepared.original)
            metrics = {f"baseline_{name}": value for name, value in base.items()}
        else:
            _log.info("%s: the step does not fit as it is, only the planned one is run", what)
        metrics |= _timed(config, step, lean)
    if fits:
        metrics["slowdown"] = metrics["step_time_s"] / metrics["baseline_step_time_s"] - 1
    return metrics


def _copies(prepared: Prepared) -> int:
    """Bytes of the copies that a comparison takes: what the step changes, and both sides' results."""
    graph = prepared.original.graph
    inputs = {storage for node in graph.nodes if node.is_placeholder for storage in node.storages}
    return 4 * sum(graph.storages[storage].bytes for storage in inputs)


def counted_peak(traced: TracedStep) -> int:
    """Peak of a step by running it on fake tensors and counting what lives, bytes."""
    inputs = [compat.fresh_fake(fake) for fake in traced.fakes[: traced.graph.first_call]]
    accountant = Accountant(inputs)
    with compat.mode_of(inputs[0]):
        Program(traced).run(inputs, accountant.watcher)
    return max(accountant.held.values())


def require_same(what: str, step: TrainingStep, original: TracedStep, lean: TracedStep) -> None:
    """Takes one step by each of two programs from the same state; the step is left where it was.

    Raises:
        DifferentStepError: loss, gradients, weights, buffers, optimizer state or random state differ.
    """
    inputs = original.inputs(step)
    before, state = [tensor.clone() for tensor in inputs], _random_state(device_of(original))
    after: list[list[Tensor]] = []
    for traced in (original, lean):
        results = Program(traced).run(inputs)
        state_before = _random_state(device_of(original))
        after.append([*results, *(tensor.clone() for tensor in inputs), state_before])
        for current, kept in zip(inputs, before, strict=True):
            current.copy_(kept)
        _set_random_state(device_of(original), state)
    for first, second in zip(*after, strict=True):
        if not _same(first, second):
            raise DifferentStepError(f"{what}: the planned step differs from the step in a tensor {tuple(first.shape)}")


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal to the bit, but for the kinds of not-a-number."""
    return torch.equal(first, second) or bool(((first == second) | (first.isnan() & second.isnan())).all())


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _timed(config: RematConfig, step: TrainingStep, traced: TracedStep) -> dict[str, float]:
    """Median seconds of a step by its program, and the most bytes allocated in it."""
    program, inputs, device = Program(traced), traced.inputs(step), device_of(traced)
    clock = clock_of(device)
    for _ in range(config.warmup):
        program.run(inputs)
    moments = [clock.now()]
    for _ in tqdm(range(config.iterations), desc="steps", unit="step", leave=False, disable=None):
        program.run(inputs)
        moments.append(clock.now())
    peak = peak_of(lambda: program.run(inputs), held_by(inputs), device)
    return {"step_time_s": float(np.median(np.diff(clock.seconds(moments)))), "peak_bytes_measured": float(peak)}


def _sentence(config: RematConfig, batch_size: int, metrics: Mapping[str, float]) -> str:
    measured = f", {metrics['slowdown']:+.1%} measured here" if "slowdown" in metrics else ""
    return (
        f"{config.model}, batch size {batch_size}: peak {size(metrics['peak_bytes'])} instead of "
        f"{size(metrics['baseline_peak_bytes'])} ({metrics['peak_bytes'] / metrics['baseline_peak_bytes']:.1%}) for "
        f"{metrics['extra_time_fraction']:.1%} more time by {config.times} (at least "
        f"{metrics['bound_time_fraction']:.1%} for any plan){measured}; step {duration(metrics['step_time_s'])}"
    )


def _files(
    config: RematConfig, prepared: Prepared, planner: Planner, plan: Plan, accelerator: Accelerator
) -> dict[str, Any]:
    what = f"{config.model}, batch size {config.batch_size}"
    least = planner.least_bytes(config.solve_s)
    targets = np.linspace(planner.peak_bytes, least, config.targets).tolist()
    frontier = _table(planner.frontier(targets, config.solve_s), prepared)
    greedy = _table(list(greedy_plans(prepared)), prepared)
    files = {
        "plan.json": json.dumps(_described(config, prepared, plan), indent=1) + "\n",
        "frontier.csv": frontier,
        "frontier_mu_two.csv": greedy,
        "figures/frontier.png": remat_charts.frontier(
            frontier, greedy, prepared.base_bytes, plan.target_bytes, f"What memory costs, {what}, {config.times}"
        ),
    }
    if config.torch_budgets and config.times != "measured":
        table, base = beside_torch(config, accelerator.device)
        files["frontier_torch.csv"] = table
        files["figures/beside_torch.png"] = remat_charts.beside_torch(table, base, f"Beside torch's budgets, {what}")
    return files


def _table(plans: list[Plan], prepared: Prepared) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "target_bytes": [plan.target_bytes for plan in plans],
            "peak_bytes": [plan.peak_bytes for plan in plans],
            "extra_time_s": [plan.extra_time_s for plan in plans],
            "extra_time_fraction": [plan.extra_time_s / prepared.base_time_s for plan in plans],
            "solver": [plan.solver for plan in plans],
            "gap": [plan.gap for plan in plans],
        }
    )


def greedy_plans(prepared: Prepared) -> Iterator[Plan]:
    """Every lower peak that mu-TWO's greedy choice passes on its way, recomputation only."""
    graph, costs = prepared.traced.graph, prepared.costs
    simulator = Simulator(graph, costs)
    able = set(simulator.able)
    passed = np.concatenate([[0.0], np.cumsum(costs.times)])
    every = activations(graph)
    candidates = []
    for activation, again in zip(every, recomputations(graph, every), strict=True):
        if activation.storage in able:
            read = {
                storage
                for node in again.nodes
                for source in graph.nodes[node].inputs
                for storage in graph.nodes[source].storages
            }
            sources = frozenset((read & {other.storage for other in every}) - {activation.storage})
            seconds = again.time_s(costs.times)
            idle, needed = float(passed[activation.last_forward_use + 1]), float(passed[activation.first_backward_use])
            candidates.append(Candidate(activation.storage, activation.bytes, seconds, sources, math.inf, idle, needed))
    lowest = simulator.peak_bytes
    plans: list[Plan] = []

    def look(choice: Choice) -> bool:
        nonlocal lowest
        simulator.adopt(choice.recomputed)
        if simulator.peak_bytes < lowest:
            lowest = simulator.peak_bytes
            dropped = frozenset(choice.recomputed)
            plans.append(Plan(dropped, lowest, lowest, simulator.extra_time_s, simulator.extra_time_s, "mu-two"))
        return False

    choose(candidates, look)
    yield from plans


def _described(config: RematConfig, prepared: Prepared, plan: Plan) -> dict[str, Any]:
    """A plan as people and programs read it."""
    graph = prepared.traced.graph
    dropped = [graph.storages[storage] for storage in sorted(plan.dropped)]
    return {
        "model": config.model,
        "batch_size": config.batch_size,
        "nodes": len(graph.nodes),
        "torch": torch.__version__,
        "times": config.times,
        "baseline_peak_bytes": prepared.base_bytes,
        "target_bytes": plan.target_bytes,
        "peak_bytes": plan.peak_bytes,
        "extra_time_s": plan.extra_time_s,
        "extra_time_fraction": plan.extra_time_s / prepared.base_time_s,
        "bound_s": plan.bound_s,
        "gap": plan.gap,
        "solver": plan.solver,
        "dropped": [
            {
                "storage": storage.id,
                "bytes": storage.bytes,
                "node": storage.creator,
                "op": graph.nodes[storage.creator].op,
                "module": graph.nodes[storage.creator].module,
            }
            for storage in dropped
        ],
    }


def resolve(config: RematConfig) -> RematConfig:
    """The same config, its model looked up.

    Raises:
        ConfigError: no such model or setting.
    """
    families.check(config.model, config.settings)
    return config

"""The task profiler: one training step of a model at several batch sizes, traced, predicted, run and measured."""

import gc
import logging
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from labtrail.checkpoint import Checkpoint
from labtrail.example import Example
from labtrail.launch import require_one_process
from labtrail.record import Record, named
from labtrail.seeding import reseed
from labtrail.stepgraph import compat
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.memory import held_by, peak_of
from labtrail.stepgraph.step import TrainingStep, plain_step
from labtrail.stepgraph.trace import TracedStep, trace
from labtrail.task import Task
from projects.profiler import charts, families
from projects.profiler.clock import clock_of
from projects.profiler.config import OptimizerName, ProfilerConfig
from projects.profiler.families import Sizes
from projects.profiler.fitting import free_bytes, out_of_memory_explained, to_swap
from projects.profiler.profile import GraphProfiler, Profile
from projects.profiler.report import write_report
from projects.profiler.swap import Bandwidth, measure_bandwidth
from projects.profiler.tables import duration, size, summary

NAME = "profiler"
_GIB = 2**30
_RATE = 1e-4
# Each reads its step count from a tensor, so that the step can be one graph.
_OPTIMIZERS: Mapping[OptimizerName, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adamw": lambda parameters: AdamW(parameters, lr=_RATE, fused=True),
    "adam": lambda parameters: Adam(parameters, lr=_RATE, fused=True),
    "sgd": lambda parameters: SGD(parameters, lr=_RATE, fused=True),
    "momentum": lambda parameters: SGD(parameters, lr=_RATE, momentum=0.9, fused=True),
    "adagrad": lambda parameters: Adagrad(parameters, lr=_RATE, fused=True),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=_RATE, foreach=False),
}
# What a run logs as metrics; the rest is in its table.
_LOGGED = (
    "peak_bytes_predicted", "peak_bytes_measured", "step_time_s", "graph_time_s", "activation_bytes",
    "prediction_error",
)  # fmt: skip

_log = logging.getLogger("labtrail")


class Result(NamedTuple):
    """One batch size.

    Attributes:
        profile: node by node.
        metrics: names without their prefix.
    """

    profile: Profile
    metrics: dict[str, float]


def measure(config: ProfilerConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:  # noqa: ARG001
    """One Record per batch size, with it as step; each brings the page and the figure over all of them up to date."""
    require_one_process(accelerator, NAME)
    given = config.bandwidth_gb_s
    bandwidth = Bandwidth(given * 1e9, given * 1e9) if given else measure_bandwidth(accelerator.device)
    results: dict[int, Result] = {}
    for batch_size in config.batch_sizes:
        result = _measured(config, batch_size, bandwidth, accelerator)
        results[batch_size] = result
        what = _described(config, batch_size, result.profile)
        _log.info("%s\n%s", what, summary(result.profile))
        own = _tables(result.profile) | _figures(config, what, result.profile)
        if batch_size != config.batch_sizes[-1]:
            own = {f"batch_{batch_size}/{name}": file for name, file in own.items()}
        metrics = named("profile", {name: result.metrics[name] for name in _LOGGED})
        yield Record(batch_size, metrics, own | _closing(config, results))
        gc.collect()


def _what(config: ProfilerConfig, batch_size: int) -> str:
    return f"{config.model}, batch size {batch_size}"


def _described(config: ProfilerConfig, batch_size: int, profile: Profile) -> str:
    swapped = f", {len(profile.swapped)} activations swapped" if profile.swapped else ""
    return f"{_what(config, batch_size)}{swapped}"


def _measured(config: ProfilerConfig, batch_size: int, bandwidth: Bandwidth, accelerator: Accelerator) -> Result:
    what, device = _what(config, batch_size), accelerator.device
    sizes = Sizes(batch_size, config.sequence_length, config.image_size)
    began = time.perf_counter()
    traced = trace(_step(config, families.example_on_paper(config.model, config.settings, sizes, device), accelerator))
    seconds = time.perf_counter() - began
    swapped = to_swap(traced, what, _limit(config), free_bytes(device))
    with out_of_memory_explained(what):
        reseed(config.seed)
        model, batch, loss = families.example(config.model, config.settings, sizes)
        example = Example(model.to(device), compat.to_device(batch, device), loss)
        step = _step(config, example, accelerator)
        profiler = GraphProfiler(traced, step, swapped)
        eager = _warm(traced, step) if swapped else _eager(step, config, device)
        profiler.run(config.iterations, config.warmup)
        profiler.measure_memory()
        profile = profiler.aggregate(bandwidth)
        metrics = _metrics(profile, profiler.measured_peak()) | {"trace_time_s": seconds}
    return Result(profile, {"step_time_s": profile.graph_time_s} | metrics | eager)


def _step(config: ProfilerConfig, example: Example, accelerator: Accelerator) -> TrainingStep:
    """The example in training mode with the config's optimizer, in the accelerator's precision."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with accelerator.autocast():
            return example.loss(model, batch)

    parameters = [one for one in example.model.parameters() if one.requires_grad]
    optimizer = _OPTIMIZERS[config.optimizer](parameters)
    return TrainingStep(example.model.train(), optimizer, example.batch, plain_step(loss, config.clip_norm))


def _eager(step: TrainingStep, config: ProfilerConfig, device: torch.device) -> dict[str, float]:
    """Seconds and peak of the step as it is, without any profiler; gives the optimizer its state."""
    clock = clock_of(device)
    for _ in range(max(1, config.warmup)):
        step.take()
    moments = [clock.now()]
    for _ in range(config.iterations):
        step.take()
        moments.append(clock.now())
    step.clear()
    peak = peak_of(step.take, held_by(step.tensors()), device)
    step.clear()
    return {"step_time_s": float(np.median(np.diff(clock.seconds(moments)))), "peak_bytes_eager": float(peak)}


def _warm(traced: TracedStep, step: TrainingStep) -> dict[str, float]:
    """Gives the optimizer its state without a forward pass, for steps that do not fit."""
    parameters = step.parameters()
    for index in traced.trained:
        parameters[index].grad = torch.zeros_like(parameters[index])
    step.optimizer.step()
    step.clear()
    return {}


def _metrics(profile: Profile, measured: int) -> dict[str, float]:
    graph, kept = profile.traced.graph, profile.activations
    parts = {f"peak_{name}_bytes": float(held[profile.peak_node]) for name, held in profile.parts.items()}
    return {
        "peak_bytes_predicted": float(profile.peak_bytes),
        "peak_bytes_measured": float(measured),
        "peak_bytes_storages": float(profile.held[graph.first_call :].max()),
        "peak_bytes_unswapped": float(liveness(graph, profile.granularity).peak),
        "prediction_error": profile.peak_bytes / measured - 1,
        "graph_time_s": profile.graph_time_s,
        "nodes": float(len(graph.nodes) - graph.first_call),
        "activations": float(len(kept)),
        "activation_bytes": float(sum(one.bytes for one in kept)),
        "swapped_activations": float(len(profile.swapped)),
        **parts,
    }


def _tables(profile: Profile) -> dict[str, Any]:
    return {
        "node_stats.csv": profile.node_stats(),
        "activation_stats.csv": profile.activation_stats(),
        "summary.txt": summary(profile) + "\n",
    }


def _figures(config: ProfilerConfig, what: str, profile: Profile) -> dict[str, Any]:
    nodes, kept = profile.node_stats(), profile.activation_stats()
    graph = profile.traced.graph
    timeline = charts.memory_timeline(
        profile.parts, graph.phase_starts(), _limit(config), graph.first_call, f"Predicted memory, {what}"
    )
    return {
        "figures/node_runtime.png": charts.node_runtime(nodes, f"Run time, {what}"),
        "figures/node_peak.png": charts.node_peak(nodes, f"Memory of nodes, {what}"),
        "figures/activation_sizes.png": charts.activation_sizes(kept, f"Activations, {what}"),
        "figures/inactive_time.png": charts.inactive_time(kept, f"Activations between their uses, {what}"),
        "figures/memory_timeline.png": timeline,
    }


def _limit(config: ProfilerConfig) -> float | None:
    return config.memory_limit_gib * _GIB if config.memory_limit_gib else None


def _closing(config: ProfilerConfig, results: Mapping[int, Result]) -> dict[str, Any]:
    """The table and figure over all batch sizes, and the page."""
    rows = [{"batch_size": batch_size, **result.metrics} for batch_size, result in results.items()]
    table = pd.DataFrame(rows)
    shown = by_part(table).assign(label=[f"batch {one}" for one in results])
    about = f"{config.optimizer}, random weights, made-up data, precision {config.compute.precision}"
    lines = [
        f"{_described(config, batch_size, profile)}: predicted peak {size(found['peak_bytes_predicted'])}, measured "
        f"{size(found['peak_bytes_measured'])}, step {duration(found['step_time_s'])}"
        for batch_size, (profile, found) in results.items()
    ]
    profiles = {batch_size: result.profile for batch_size, result in results.items()}
    return {
        "tables/batch_sizes.csv": table,
        "figures/memory_by_batch.png": charts.memory_by_batch(
            shown, _limit(config), f"Memory of a step, {config.model}"
        ),
        "report.html": write_report(f"One training step of {config.model}", about, _limit(config), profiles, lines),
    }


def by_part(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of metrics to those of ``charts.memory_by_batch``, but for the label."""
    parts = {name: table[f"peak_{name}_bytes"] for name in charts.PART_COLOURS if f"peak_{name}_bytes" in table}
    return pd.DataFrame({**parts, "measured": table["peak_bytes_measured"]})


def resolve(config: ProfilerConfig) -> ProfilerConfig:
    """The same config, its model looked up.

    Raises:
        ConfigError: no such model or setting.
    """
    families.check(config.model, config.settings)
    return config


def title(config: ProfilerConfig) -> str:
    """Short name of the run: ``bert-base-b4-8-16``."""
    return f"{config.model}-b{'-'.join(str(one) for one in config.batch_sizes)}"


TASK = Task(
    name=NAME,
    config=ProfilerConfig,
    function=measure,
    default=Path("configs/profiler/tiny.yaml"),
    resolve=resolve,
    title=title,
)

"""The task profiler: one training step of a model at several batch sizes, traced, predicted, run and measured."""

import gc
import logging
import time
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import pandas as pd
from accelerate import Accelerator

import labtrail as lt
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.trace import trace
from projects.profiler import charts, families
from projects.profiler.config import ProfilerConfig
from projects.profiler.fitting import free_bytes, out_of_memory_explained, to_swap
from projects.profiler.profile import GraphProfiler, Profile
from projects.profiler.report import write_report
from projects.profiler.stepping import eager_figures, give_state, in_memory, on_paper
from projects.profiler.swap import Bandwidth, measure_bandwidth
from projects.profiler.tables import duration, size, summary

_GIB = 2**30
# What a run logs as metrics; the rest is in its table.
_LOGGED = (
    "peak_bytes_predicted",
    "peak_bytes_measured",
    "step_time_s",
    "graph_time_s",
    "activation_bytes",
    "prediction_error",
)

_log = logging.getLogger("labtrail")


class Result(NamedTuple):
    """One batch size.

    Attributes:
        profile: node by node.
        metrics: names without their prefix.
    """

    profile: Profile
    metrics: dict[str, float]


def measure(config: ProfilerConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record per batch size, with it as step; each brings the page and the figure over all of them up to date."""
    asked_speed = config.bandwidth_gb_s
    bandwidth = (
        Bandwidth(asked_speed * 1e9, asked_speed * 1e9) if asked_speed else measure_bandwidth(run.accelerator.device)
    )
    results: dict[int, Result] = {}
    for batch_size in config.batch_sizes:
        result = _measured(config, batch_size, bandwidth, run.accelerator)
        results[batch_size] = result
        what = _described(config, batch_size, result.profile)
        _log.info("%s\n%s", what, summary(result.profile))
        files = _tables(result.profile) | _figures(config, what, result.profile)
        if batch_size != config.batch_sizes[-1]:
            files = {f"batch_{batch_size}/{name}": file for name, file in files.items()}
        metrics = lt.named("profile", {name: result.metrics[name] for name in _LOGGED})
        yield lt.Record(batch_size, metrics, files | _closing(config, results))
        gc.collect()


def _what(config: ProfilerConfig, batch_size: int) -> str:
    return f"{config.model}, batch size {batch_size}"


def _described(config: ProfilerConfig, batch_size: int, profile: Profile) -> str:
    swapped = f", {len(profile.swapped)} activations swapped" if profile.swapped else ""
    return f"{_what(config, batch_size)}{swapped}"


def _measured(config: ProfilerConfig, batch_size: int, bandwidth: Bandwidth, accelerator: Accelerator) -> Result:
    what, device = _what(config, batch_size), accelerator.device
    began = time.perf_counter()
    traced = trace(on_paper(config, batch_size, accelerator))
    seconds = time.perf_counter() - began
    swapped = to_swap(traced, what, _limit(config), free_bytes(device))
    with out_of_memory_explained(what):
        step = in_memory(config, batch_size, accelerator)
        profiler = GraphProfiler(traced, step, swapped)
        eager: dict[str, float] = {}
        if swapped:
            give_state(step, traced.trained)
        else:
            eager = eager_figures(step, config, device)
        profiler.run(config.iterations, config.warmup)
        profiler.measure_memory()
        profile = profiler.aggregate(bandwidth)
        metrics = _metrics(profile, profiler.measured_peak()) | {"trace_time_s": seconds}
    return Result(profile, {"step_time_s": profile.graph_time_s} | metrics | eager)


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
        "activation_bytes": float(sum(activation.bytes for activation in kept)),
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
    shown = by_part(table).assign(label=[f"batch {result}" for result in results])
    about = f"{config.optimizer}, random weights, made-up data, precision {config.compute.precision}"
    lines = [
        f"{_described(config, batch_size, profile)}: predicted peak {size(metrics['peak_bytes_predicted'])}, measured "
        f"{size(metrics['peak_bytes_measured'])}, step {duration(metrics['step_time_s'])}"
        for batch_size, (profile, metrics) in results.items()
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

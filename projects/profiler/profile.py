"""Runs a traced step on the device and measures every node: seconds, bytes, and what mu-TWO decides by."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from labtrail.stepgraph.liveness import Activation, activations, breakdown, held_with_swapping, liveness
from labtrail.stepgraph.memory import granularity, held_by, node_peaks, peak_of
from labtrail.stepgraph.program import Program, Watcher
from labtrail.stepgraph.recompute import recomputations
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep
from labtrail.stepgraph.workspace import workspaces
from projects.profiler.clock import Stopwatch, clock_of
from projects.profiler.swap import Bandwidth, Swapper, shelf_of

# No clock tells less apart; what takes no measurable time is not free.
_TICK_S = 1e-9


class GraphProfiler:
    """Measurements of one traced step, gathered over any number of iterations.

    Attributes:
        traced: the step.
        swapped: activations that leave the device while they wait; empty where the step fits.
    """

    def __init__(self, traced: TracedStep, step: TrainingStep, swapped: list[Activation] | None = None) -> None:
        """
        Args:
            traced: what is run.
            step: the real tensors that it runs on; it has been taken once.
            swapped: see above.
        """
        self.traced, self.swapped = traced, swapped or []
        self._program = Program(traced)
        self._step = step
        self._device = next(iter(step.parameters())).device
        self._times: list[np.ndarray] = []
        self._peaks: np.ndarray | None = None

    def run(self, iterations: int, warmup: int = 1) -> None:
        """Times every node in each of some iterations, after a warm-up that does not count."""
        bar = tqdm(range(warmup + iterations), desc="profile", unit="step", leave=False, disable=None)
        for number in bar:
            times = self._timed_once()
            if number >= warmup:
                self._times.append(times)

    def measure_memory(self) -> None:
        """The most bytes allocated at each node, in one step more; not where the step only runs swapped."""
        self._peaks = None if self.swapped else node_peaks(self.traced, self._program, self._inputs())

    def reset(self) -> None:
        """Forgets all measurements."""
        self._times, self._peaks = [], None

    def aggregate(self, bandwidth: Bandwidth) -> "Profile":
        """Medians over the iterations so far.

        Raises:
            ValueError: there is none.
        """
        if not self._times:
            raise ValueError("nothing has been measured: call run() first")
        first = self._program.first
        times = np.concatenate([np.zeros(first), np.median(np.stack(self._times), axis=0)])
        whole = float(np.median([time.sum() for time in self._times]))
        needed = workspaces(self.traced)
        return Profile(
            self.traced, granularity(self._device), times, whole, needed, self._peaks, bandwidth, tuple(self.swapped)
        )

    def measured_peak(self) -> int:
        """The most bytes allocated in one step, the step's tensors included; with swapping where it is profiled so."""
        inputs = self._inputs()
        with self._swapper() as swapper:
            watcher = swapper.watcher if swapper else Watcher()
            return peak_of(lambda: self._program.run(inputs, watcher), held_by(inputs), self._device)

    def _inputs(self) -> list[torch.Tensor]:
        self._step.clear()
        return self.traced.inputs(self._step)

    def _timed_once(self) -> np.ndarray:
        inputs = self._inputs()
        with self._swapper() as swapper:
            watch = swapper or Stopwatch(clock_of(self._device))
            self._program.run(inputs, watch.watcher)
            return watch.times()

    @contextmanager
    def _swapper(self) -> Generator[Swapper | None]:
        """Moves and times, where the step only fits with swapping."""
        if not self.swapped:
            yield None
            return
        with closing(shelf_of(self._device)) as shelf:
            yield Swapper(self.traced.graph, self.swapped, shelf, clock_of(self._device))


@dataclass(frozen=True)
class Profile:
    """What is known about a step.

    Attributes:
        traced: the step.
        granularity: the allocator's unit, in bytes.
        run_times: seconds of each node, median over iterations, float64 (nodes,); 0 for placeholders.
        graph_time_s: of the whole step, node by node.
        workspace: bytes that each node needs beside inputs and outputs, int64 (nodes,).
        peaks: the most bytes that were allocated while each node ran, int64 (nodes,); None if not measured.
        bandwidth: of swapping.
        swapped: what was swapped while it was profiled.
    """

    traced: TracedStep
    granularity: int
    run_times: np.ndarray
    graph_time_s: float
    workspace: np.ndarray
    peaks: np.ndarray | None
    bandwidth: Bandwidth
    swapped: tuple[Activation, ...]

    @cached_property
    def held(self) -> np.ndarray:
        """Bytes of the storages that live while each node runs, by static analysis, int64 (nodes,)."""
        return held_with_swapping(liveness(self.traced.graph, self.granularity), self.swapped)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Bytes needed while each node runs: storages and workspace, int64 (nodes,)."""
        return self.held + self.workspace

    @property
    def peak_node(self) -> int:
        """The first node at which most is needed."""
        first = self.traced.graph.first_call
        return first + int(self.predicted[first:].argmax())

    @property
    def peak_bytes(self) -> int:
        """The most bytes needed at once, predicted."""
        return int(self.predicted[self.peak_node])

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Bytes needed while each node runs, by part, workspace included; they add up to ``predicted``."""
        parts = breakdown(self.traced.graph, liveness(self.traced.graph, self.granularity))
        away = parts["activations"].sum() and self.held - sum(parts.values())
        return {**parts, "activations": parts["activations"] + away, "workspace": self.workspace}

    def node_stats(self) -> pd.DataFrame:
        """One row per node: id, name, op, phase, role, run_time_s, peak_memory_bytes and where it comes from.

        ``peak_memory_bytes`` is measured where it was, else predicted.
        """
        nodes = self.traced.graph.nodes
        peaks = self.predicted if self.peaks is None else self.peaks
        return pd.DataFrame(
            {
                "id": [node.id for node in nodes],
                "name": [node.name for node in nodes],
                "op": [node.op for node in nodes],
                "phase": [node.phase.value for node in nodes],
                "role": [node.role.value for node in nodes],
                "run_time_s": self.run_times,
                "peak_memory_bytes": peaks,
                "held_bytes": self.held,
                "workspace_bytes": self.workspace,
                "created_bytes": self._created(),
                "random": [node.random for node in nodes],
                "module": [node.module for node in nodes],
                "source": [_short(node.source) for node in nodes],
            }
        )

    def _created(self) -> np.ndarray:
        created = np.zeros(len(self.traced.graph.nodes), np.int64)
        for storage in self.traced.graph.storages:
            created[storage.creator] += storage.bytes
        return created

    @cached_property
    def activations(self) -> list[Activation]:
        """All activations in the order of their creation."""
        return activations(self.traced.graph)

    def activation_stats(self) -> pd.DataFrame:
        """One row per activation with mu-TWO's figures.

        Columns: name, phase (of its creation), memory_bytes; inactive_time_s between its last use in the forward pass
        and its first in the backward pass; swap_time_s out and back; recomp_time_s and recomp_memory_bytes of
        computing it again from inputs and other activations, recompute_ratio (bytes per second of that); the ranks of
        creation and uses; whether recomputing draws random numbers.
        """
        passed = np.concatenate([[0.0], np.cumsum(self.run_times)])
        rows = []
        for activation, again in zip(
            self.activations, recomputations(self.traced.graph, self.activations), strict=True
        ):
            seconds = again.time_s(self.run_times)
            rows.append(
                {
                    "name": activation.name,
                    "phase": self.traced.graph.nodes[activation.created].phase.value,
                    "memory_bytes": activation.bytes,
                    "inactive_time_s": passed[activation.first_backward_use] - passed[activation.last_forward_use + 1],
                    "swap_time_s": self.bandwidth.seconds(activation.bytes),
                    "recomp_time_s": seconds,
                    "recomp_memory_bytes": again.memory_bytes,
                    "recompute_ratio": activation.bytes / max(seconds, _TICK_S),
                    "created_rank": activation.created,
                    "last_forward_rank": activation.last_forward_use,
                    "first_backward_rank": activation.first_backward_use,
                    "last_backward_rank": activation.last_backward_use,
                    "recomputed_nodes": len(again.nodes),
                    "random": again.random,
                    "module": self.traced.graph.nodes[activation.created].module,
                }
            )
        return pd.DataFrame(rows)


def _short(source: str) -> str:
    """The last two folders of a path: enough to find it, and no one's home."""
    return "/".join(source.split("/")[-3:])

"""What the allocator really gave while operators ran, one figure per operator.

The CPU's allocator only reports its calls, so a marker is allocated after every operator: a block of an odd size that
cuts the stream of calls into pieces.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labtrail.stepgraph.compat import MemoryEvent, memory_events, storage_key
from labtrail.stepgraph.ir import StepGraph
from labtrail.stepgraph.program import Program, Watcher
from labtrail.stepgraph.trace import TracedStep

# What the caching allocator of CUDA rounds up to.
_CUDA_BLOCK = 512
_FIRST_MARKER = 7919


def granularity(device: torch.device) -> int:
    """The unit in which a device's allocator gives memory, in bytes."""
    return _CUDA_BLOCK if device.type == "cuda" else 1


def held_by(tensors: Sequence[Tensor]) -> int:
    """Bytes of the storages of some tensors, each once, as their allocator counts them."""
    sizes = {storage_key(tensor): (tensor.untyped_storage().nbytes(), granularity(tensor.device)) for tensor in tensors}
    return sum(-(-size // unit) * unit for size, unit in sizes.values())


def marker_bytes(graph: StepGraph) -> int:
    """An odd size that no storage of a step has."""
    taken = {storage.bytes for storage in graph.storages}
    return next(size for size in itertools.count(_FIRST_MARKER, 2) if size not in taken)


def mark(marker: int) -> None:
    """Leaves a marker of that many bytes among the CPU allocator's calls."""
    torch.empty(marker, dtype=torch.uint8)


def pieces(events: Sequence[MemoryEvent], marker: int) -> list[list[int]]:
    """The bytes of allocator calls before each marker, negative where memory was freed."""
    pieces_per_node: list[list[int]] = [[]]
    for event in events:
        if event.bytes == marker:
            pieces_per_node.append([])
        elif event.bytes != -marker:
            pieces_per_node[-1].append(event.bytes)
    return pieces_per_node[:-1]


def node_peaks(traced: TracedStep, program: Program, inputs: Sequence[Tensor]) -> np.ndarray:
    """The most bytes that were allocated while each node ran, the step's inputs included; int64 (nodes,).

    Unlike the bytes of storages it contains what operators allocate inside themselves. Runs one step.
    """
    if inputs[0].is_cuda:
        return _cuda_peaks(program, inputs)
    marker = marker_bytes(traced.graph)

    def cut(_index: int, _values: list[Any]) -> None:
        mark(marker)

    # Before and after the values of a node's last uses are dropped.
    events = memory_events(functools.partial(program.run, inputs, Watcher(executed=cut, finished=cut)))
    peaks = np.full(program.nodes, held_by(inputs), np.int64)
    now = int(peaks[0])
    parts = pieces(events, marker)
    for index, (running, dropping) in enumerate(zip(parts[::2], parts[1::2], strict=True), program.first):
        after = now + np.cumsum([0, *running])
        peaks[index], now = after.max(), after[-1] + sum(dropping)
    return peaks


def _cuda_peaks(program: Program, inputs: Sequence[Tensor]) -> np.ndarray:
    device = inputs[0].device
    peaks = np.full(program.nodes, held_by(inputs), np.int64)
    outside = torch.cuda.memory_allocated(device) - int(peaks[0])

    def starting(_index: int, _values: list[Any]) -> None:
        torch.cuda.reset_peak_memory_stats(device)

    def executed(index: int, _values: list[Any]) -> None:
        peaks[index] = torch.cuda.max_memory_allocated(device) - outside

    program.run(inputs, Watcher(starting=starting, executed=executed))
    return peaks


def peak_of(function: Callable[[], object], held: int, device: torch.device) -> int:
    """The most bytes that were allocated while a function ran, on top of ``held`` bytes that were there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return held + torch.cuda.max_memory_allocated(device) - before
    changes = [event.bytes for event in memory_events(function)]
    return held + int(np.cumsum([0, *changes]).max())

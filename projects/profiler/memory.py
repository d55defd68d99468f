"""What the allocator really gave while operators ran, one figure per operator.

The CPU's allocator only reports its calls, so a marker is allocated after every operator: a block of an odd size that
cuts the stream of calls into pieces.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from projects.profiler.compat import MemoryEvent, memory_events, storage_key
from projects.profiler.program import Program, Watcher

_MARKER_BYTES = 7919


def held_by(tensors: Sequence[Tensor]) -> int:
    """Bytes of the storages of some tensors, each once."""
    return sum({storage_key(one): one.untyped_storage().nbytes() for one in tensors}.values())


def mark() -> None:
    """Leaves a marker among the CPU allocator's calls."""
    torch.empty(_MARKER_BYTES, dtype=torch.uint8)


def _cut(_index: int, _values: list[Any]) -> None:
    mark()


# Before and after the values of a node's last uses are dropped.
_MARKING = Watcher(executed=_cut, finished=_cut)


def pieces(events: Sequence[MemoryEvent]) -> list[list[int]]:
    """The bytes of allocator calls before each marker, negative where memory was freed."""
    found: list[list[int]] = [[]]
    for event in events:
        if event.bytes == _MARKER_BYTES:
            found.append([])
        elif event.bytes != -_MARKER_BYTES:
            found[-1].append(event.bytes)
    return found[:-1]


def node_peaks(program: Program, inputs: Sequence[Tensor]) -> np.ndarray:
    """The most bytes that were allocated while each node ran, the step's inputs included; int64 (nodes,).

    Unlike the bytes of storages it contains what operators allocate inside themselves. Runs one step.
    """
    if inputs[0].is_cuda:
        return _cuda_peaks(program, inputs)
    events = memory_events(functools.partial(program.run, inputs, _MARKING))
    found = np.full(program.nodes, held_by(inputs), np.int64)
    now = int(found[0])
    cut = pieces(events)
    for index, (running, dropping) in enumerate(zip(cut[::2], cut[1::2], strict=True), program.first):
        after = now + np.cumsum([0, *running])
        found[index], now = after.max(), after[-1] + sum(dropping)
    return found


def _cuda_peaks(program: Program, inputs: Sequence[Tensor]) -> np.ndarray:
    device = inputs[0].device
    found = np.full(program.nodes, held_by(inputs), np.int64)
    outside = torch.cuda.memory_allocated(device) - int(found[0])

    def starting(_index: int, _values: list[Any]) -> None:
        torch.cuda.reset_peak_memory_stats(device)

    def executed(index: int, _values: list[Any]) -> None:
        found[index] = torch.cuda.max_memory_allocated(device) - outside

    program.run(inputs, Watcher(starting, executed))
    return found


def peak_of(function: Callable[[], object], held: int, device: torch.device) -> int:
    """The most bytes that were allocated while a function ran, on top of ``held`` bytes that were there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return held + torch.cuda.max_memory_allocated(device) - before
    changes = [event.bytes for event in memory_events(function)]
    return held + int(np.cumsum([0, *changes]).max())

"""Activations that leave the device between their last use in the forward pass and their first in the backward pass.

Algorithm A of mu-TWO (Purandare et al., MLSys 2023): a step that does not fit is profiled by swapping everything that
waits. A tensor keeps its place in the graph; only its storage is emptied and filled again.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from labtrail.stepgraph import compat
from labtrail.stepgraph.ir import StepGraph
from labtrail.stepgraph.liveness import Activation
from labtrail.stepgraph.program import Watcher
from projects.profiler.clock import Clock

_PROBE_BYTES = 64 << 20
_PROBES = 5


class Bandwidth(NamedTuple):
    """How fast bytes leave the device and come back.

    Attributes:
        out_bytes_s, in_bytes_s: bytes per second.
    """

    out_bytes_s: float
    in_bytes_s: float

    def seconds(self, size: int) -> float:
        """The way out and back."""
        return size / self.out_bytes_s + size / self.in_bytes_s


def measure_bandwidth(device: torch.device) -> Bandwidth:
    """Between a GPU and pinned host memory; on a CPU between two places of its own memory. Medians of 5."""
    there = torch.zeros(_PROBE_BYTES, dtype=torch.uint8, device=device)
    host = torch.zeros(_PROBE_BYTES, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return Bandwidth(_copied_bytes_s(there, host), _copied_bytes_s(host, there))


def _copied_bytes_s(source: Tensor, target: Tensor) -> float:
    times = []
    for _ in range(_PROBES + 1):
        began = time.perf_counter()
        target.copy_(source)
        if source.is_cuda or target.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return _PROBE_BYTES / float(np.median(times[1:]))


class Shelf(Protocol):
    """Where the contents of storages lie while they are away."""

    def put(self, key: int, content: Tensor) -> None:
        """Takes a copy of bytes, uint8 (n,)."""
        ...

    def take(self, key: int, content: Tensor) -> None:
        """Writes them back, and forgets them."""
        ...

    def close(self) -> None:
        """Forgets everything."""
        ...


class HostMemory:
    """Pinned memory of the host, for what leaves a GPU."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def put(self, key: int, content: Tensor) -> None:
        """Device to host."""
        self._kept[key] = torch.empty(len(content), dtype=torch.uint8, pin_memory=True).copy_(content)

    def take(self, key: int, content: Tensor) -> None:
        """Host to device."""
        content.copy_(self._kept.pop(key))

    def close(self) -> None:
        """Frees the memory."""
        self._kept.clear()


class Files:
    """Files in a temporary folder, for what leaves a CPU's memory."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="swapped-")

    def put(self, key: int, content: Tensor) -> None:
        """Memory to file."""
        content.numpy().tofile(self._path(key))

    def take(self, key: int, content: Tensor) -> None:
        """File to memory."""
        content.copy_(torch.from_numpy(np.fromfile(self._path(key), np.uint8)))
        self._path(key).unlink()

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()

    def _path(self, key: int) -> Path:
        return Path(self._folder.name) / str(key)


def shelf_of(device: torch.device) -> Shelf:
    """Where a device's activations go."""
    return HostMemory() if device.type == "cuda" else Files()


class _Away(NamedTuple):
    """A tensor whose storage has left.

    Attributes:
        dtype, device: of the tensor.
        shape, stride, offset: of it in its storage.
    """

    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int


class Swapper:
    """Takes activations away and brings them back, and times the nodes without that.

    Attributes:
        watcher: what a program calls.
    """

    def __init__(self, graph: StepGraph, swapped: Sequence[Activation], shelf: Shelf, clock: Clock) -> None:
        self._shelf, self._clock = shelf, clock
        self._moments: list[Any] = []
        self._waiting = _waiting_values(graph, swapped)
        self._away: dict[int, _Away] = {}
        self._leaving: dict[int, list[Activation]] = {}
        self._coming: dict[int, list[Activation]] = {}
        for storage in swapped:
            self._leaving.setdefault(storage.last_forward_use, []).append(storage)
            self._coming.setdefault(storage.first_backward_use, []).append(storage)
        self.watcher = Watcher(starting=self._starting, finished=self._finished)

    def _starting(self, index: int, values: list[Any]) -> None:
        """Brings back what the node needs."""
        for storage in self._coming.get(index, ()):
            ids = [alias for alias in self._waiting[storage.storage] if alias in self._away]
            if not ids:
                continue
            content = torch.empty(storage.bytes, dtype=torch.uint8, device=self._away[ids[0]].device)
            self._shelf.take(storage.storage, content)
            for node in ids:
                like = self._away.pop(node)
                empty = torch.empty(0, dtype=like.dtype, device=like.device)
                values[node] = empty.set_(content.untyped_storage(), like.offset, like.shape, like.stride)
        self._moments.append(self._clock.now())

    def _finished(self, index: int, values: list[Any]) -> None:
        """Takes away what the forward pass no longer needs."""
        self._moments.append(self._clock.now())
        for storage in self._leaving.get(index, ()):
            ids = self._waiting[storage.storage]
            if any(values[alias].is_conj() or values[alias].is_neg() for alias in ids):
                # Such a view is more than a place in a storage: it stays.
                continue
            self._shelf.put(storage.storage, compat.bytes_of(values[ids[0]]))
            for node in ids:
                value = values[node]
                place = (value.shape, value.stride(), value.storage_offset())
                self._away[node] = _Away(value.dtype, value.device, *place)
                values[node] = None

    def times(self) -> np.ndarray:
        """Seconds of each computed node without the transfers, float64."""
        return np.diff(self._clock.seconds(self._moments))[::2]


def swappable(graph: StepGraph, activations: Sequence[Activation]) -> list[Activation]:
    """Those that wait for at least one node, hold something, and are no part of a value with other storages."""
    waiting = _waiting_values(graph, activations)
    return [
        activation
        for activation in activations
        if activation.bytes
        and activation.first_backward_use > activation.last_forward_use + 1
        and all(
            len(graph.nodes[node].storages) == 1 and node not in graph.outputs for node in waiting[activation.storage]
        )
    ]


def _waiting_values(graph: StepGraph, activations: Sequence[Activation]) -> dict[int, list[int]]:
    """Storage -> the nodes whose values lie in it while it waits."""
    wanted = {activation.storage: activation for activation in activations}
    waiting: dict[int, list[int]] = {storage: [] for storage in wanted}
    for node, last in zip(graph.nodes, graph.last_uses, strict=True):
        for storage in node.storages:
            position = wanted.get(storage)
            if position is not None and node.id <= position.last_forward_use and last >= position.first_backward_use:
                waiting[storage].append(node.id)
    return waiting

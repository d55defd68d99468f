"""Counts the memory of a running step from outside: which storages are really there, by weak references.

Why: docs/decisions/025-allocator-markers.md
"""

from typing import Any

from torch import Tensor

from labtrail.stepgraph.compat import StorageWeakRef, leaves, storage_key
from labtrail.stepgraph.memory import held_by
from labtrail.stepgraph.program import Watcher


class Accountant:
    """Adds up the bytes of all living storages at every node.

    It knows nothing of the graph: a storage counts from when a value lies in it until it is really freed.

    Attributes:
        held: node id -> bytes while it ran, the step's inputs included.
        watcher: what a program calls.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        self.held: dict[int, int] = {}
        self._inputs = {storage_key(input_) for input_ in inputs}
        self._fixed = held_by(inputs)
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.watcher = Watcher(executed=self._executed)

    def _executed(self, index: int, values: list[Any]) -> None:
        """Adds what the node has made, and forgets what has been freed."""
        self._seen = {key: seen for key, seen in self._seen.items() if not seen[0].expired()}
        for tensor in leaves(values[index]):
            key = storage_key(tensor)
            if key not in self._inputs:
                storage = tensor.untyped_storage()
                self._seen[key] = (StorageWeakRef(storage), storage.nbytes())
        self.held[index] = self._fixed + sum(size for _, size in self._seen.values())

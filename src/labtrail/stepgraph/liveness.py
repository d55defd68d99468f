"""When memory is held: from a graph alone, byte for byte what its execution holds at every node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from labtrail.stepgraph.ir import Phase, Role, StepGraph

# The parts of a memory breakdown, as people ask for them.
PARTS: Mapping[str, tuple[Role, ...]] = {
    "parameters": (Role.PARAMETER, Role.BUFFER),
    "optimizer_state": (Role.OPTIMIZER_STATE,),
    "gradients": (Role.GRADIENT,),
    "activations": (Role.ACTIVATION,),
    "temporaries": (Role.INPUT, Role.OTHER),
}


@dataclass(frozen=True)
class Liveness:
    """The life of every storage.

    Attributes:
        birth: int64 (storages,); first node during which it is held.
        death: int64 (storages,); last node during which it is held.
        bytes: int64 (storages,); rounded up to what the allocator gives.
        nodes: number of nodes.
        first_call: first node that is not a placeholder.
    """

    birth: np.ndarray
    death: np.ndarray
    bytes: np.ndarray
    nodes: int
    first_call: int

    def held(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """Bytes held while each node runs, int64 (nodes,).

        Args:
            chosen: bool (storages,); which storages count; None: all.
        """
        sizes = self.bytes if chosen is None else np.where(chosen, self.bytes, 0)
        change = np.zeros(self.nodes + 1, np.int64)
        np.add.at(change, self.birth, sizes)
        np.subtract.at(change, self.death + 1, sizes)
        return np.cumsum(change)[:-1]

    @property
    def peak(self) -> int:
        """The most bytes held at once."""
        return int(self.held()[self.first_call :].max())

    @property
    def peak_node(self) -> int:
        """The first node at which as much is held."""
        return self.first_call + int(self.held()[self.first_call :].argmax())


def liveness(graph: StepGraph, granularity: int = 1) -> Liveness:
    """The life of every storage of a step whose values are dropped after their last use.

    A storage is held as long as any value that lies in it; those from outside, and what the caller keeps, to the end.

    Args:
        graph: the step.
        granularity: the allocator's unit, in bytes (512 on CUDA).
    """
    birth = np.array([storage.creator for storage in graph.storages], np.int64)
    sizes = np.array([storage.bytes for storage in graph.storages], np.int64)
    death = birth.copy()
    for node, last in zip(graph.nodes, graph.last_uses, strict=True):
        for storage in node.storages:
            death[storage] = max(death[storage], last)
    for node in graph.nodes[: graph.first_call]:
        birth[list(node.storages)] = 0
    return Liveness(birth, death, -(-sizes // granularity) * granularity, len(graph.nodes), graph.first_call)


def breakdown(graph: StepGraph, life: Liveness) -> dict[str, np.ndarray]:
    """Bytes held while each node runs, by part; they add up to ``life.held()``."""
    roles = np.array([storage.role for storage in graph.storages])
    return {part: life.held(np.isin(roles, wanted)) for part, wanted in PARTS.items()}


@dataclass(frozen=True)
class Activation:
    """A storage that the forward pass makes and the backward pass reads.

    Attributes:
        storage: its id.
        name: of the node that made it.
        bytes: its size.
        created: the node that made it.
        last_forward_use: the last node that takes it before the backward pass does.
        first_backward_use, last_backward_use: of the backward pass.
    """

    storage: int
    name: str
    bytes: int
    created: int
    last_forward_use: int
    first_backward_use: int
    last_backward_use: int


def activations(graph: StepGraph) -> list[Activation]:
    """All activations in the order of their creation; a view of one counts as a use."""
    forward: dict[int, int] = {}
    backward: dict[int, list[int]] = {}
    for node in graph.nodes:
        for storage in {storage for input_ in node.inputs for storage in graph.nodes[input_].storages}:
            # Of several forward passes the one before the first backward pass counts.
            if node.phase is Phase.FORWARD and storage not in backward:
                forward[storage] = node.id
            elif node.phase is Phase.BACKWARD:
                backward.setdefault(storage, []).append(node.id)
    return [
        Activation(
            storage.id,
            graph.nodes[storage.creator].name,
            storage.bytes,
            storage.creator,
            forward.get(storage.id, storage.creator),
            backward[storage.id][0],
            backward[storage.id][-1],
        )
        for storage in graph.storages
        if storage.role is Role.ACTIVATION
    ]


def held_with_swapping(life: Liveness, swapped: Sequence[Activation]) -> np.ndarray:
    """Bytes held while each node runs if some activations are away between their uses, int64 (nodes,)."""
    change = np.zeros(life.nodes + 1, np.int64)
    for storage in swapped:
        change[storage.last_forward_use + 1] -= life.bytes[storage.storage]
        change[storage.first_backward_use] += life.bytes[storage.storage]
    return life.held() + np.cumsum(change)[:-1]

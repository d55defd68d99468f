"""What it would take to compute an activation again instead of keeping it (mu-TWO, MLSys 2023).

Available for that are the step's inputs and all other activations, unless they were changed in place after they were
read; everything between is computed again. Random operators are counted like others: to repeat them, their generator
has to be replayed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labtrail.stepgraph.ir import Phase, Role, StepGraph
from labtrail.stepgraph.liveness import Activation


@dataclass(frozen=True)
class Recomputation:
    """The nodes to run again for one activation.

    Attributes:
        nodes: ids in order.
        random: whether one of them draws random numbers.
        memory_bytes: the most bytes that they hold at once, the activation included, what they start from excluded.
    """

    nodes: tuple[int, ...]
    random: bool
    memory_bytes: int

    def time_s(self, run_times: np.ndarray) -> float:
        """Seconds, from the seconds of each node."""
        return float(run_times[list(self.nodes)].sum())


def recomputations(graph: StepGraph, activations: Sequence[Activation]) -> list[Recomputation]:
    """One for each activation."""
    writers: dict[int, list[int]] = {}
    for node in graph.nodes:
        if node.phase is Phase.FORWARD:
            for storage in node.writes:
                writers.setdefault(storage, []).append(node.id)
    return [_recomputation(graph, activation, writers) for activation in activations]


def _recomputation(graph: StepGraph, activation: Activation, writers: dict[int, list[int]]) -> Recomputation:
    """Backwards from the activation to what is there."""
    chosen: set[int] = set()
    waiting = [activation.created, *writers.get(activation.storage, ())]
    while waiting:
        index = waiting.pop()
        if index in chosen or graph.nodes[index].is_placeholder:
            continue
        chosen.add(index)
        for input_ in graph.nodes[index].inputs:
            storages = graph.nodes[input_].storages
            changes = [late for storage in storages for late in writers.get(storage, ())]
            if activation.storage in storages or not _available(graph, input_) or max(changes, default=0) > index:
                waiting += [input_, *(late for late in changes if late < index)]
    nodes = tuple(sorted(chosen))
    return Recomputation(nodes, any(graph.nodes[node].random for node in nodes), _most_held(graph, nodes, activation))


def _available(graph: StepGraph, index: int) -> bool:
    """Whether a value can be had without computing it: from outside, or in an activation."""
    node = graph.nodes[index]
    roles = {graph.storages[storage].role for storage in node.storages}
    return node.is_placeholder or (bool(roles) and roles <= _THERE)


_THERE = {Role.PARAMETER, Role.BUFFER, Role.OPTIMIZER_STATE, Role.INPUT, Role.ACTIVATION}


def _most_held(graph: StepGraph, nodes: Sequence[int], activation: Activation) -> int:
    """Largest sum of what the chosen nodes create, each freed after its last use among them."""
    inside = set(nodes)
    created = {storage: graph.storages[storage].bytes for node in nodes for storage in graph.nodes[node].storages}
    there = {
        storage
        for node in nodes
        for source in graph.nodes[node].inputs
        if source not in inside
        for storage in graph.nodes[source].storages
    }
    last: dict[int, int] = {}
    for node in nodes:
        for storage in (
            *graph.nodes[node].storages,
            *(s for i in graph.nodes[node].inputs for s in graph.nodes[i].storages),
        ):
            last[storage] = node
    held = most = 0
    alive: set[int] = set()
    for node in nodes:
        fresh = {storage for storage in graph.nodes[node].storages if storage not in alive and storage not in there}
        alive |= fresh
        held += sum(created[storage] for storage in fresh)
        most = max(most, held)
        gone = {storage for storage in alive if last[storage] == node and storage != activation.storage}
        alive -= gone
        held -= sum(created[storage] for storage in gone)
    return most

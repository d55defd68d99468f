"""Who takes whose value in a step, as lists by node id: what plans of recomputation are judged by."""

from collections.abc import Sequence

from labtrail.stepgraph.ir import Node, Phase, StepGraph
from labtrail.stepgraph.rewrite import is_saved, parts_of, repeated_sources


class Flow:
    """Static facts of a step; what nobody needs after the forward pass is left out.

    Attributes:
        nodes: of the graph.
        first_call: first node that is not a placeholder.
        sizes: of each storage, in bytes that the allocator gives.
        creators: of each storage.
        forward: whether a node is a call of the forward pass.
        early: consumers of a node in the forward pass.
        late: consumers after it, ascending.
        sources: what a repetition of a node takes.
        repeaters: whose repetition takes a node.
        residents: values in each storage.
        parts: a part of a result -> all its parts.
        temporary: whether a forward value is never kept for the backward pass.
        kept: whether the caller keeps a value.
        stays: whether a node always runs: the caller keeps its value, it changes something, or it draws at random.
        runs: whether a node runs in a step that keeps all activations, dead code of the backward pass left out.
    """

    def __init__(self, graph: StepGraph, granularity: int) -> None:
        nodes = graph.nodes
        self.nodes, self.first_call = nodes, graph.first_call
        self.sizes = [-(-storage.bytes // granularity) * granularity for storage in graph.storages]
        self.creators = [storage.creator for storage in graph.storages]
        self.forward = [node.phase is Phase.FORWARD and not node.is_placeholder for node in nodes]
        outputs = set(graph.outputs)
        self.kept = [node.id in outputs or node.is_placeholder for node in nodes]
        self.stays = [bool(self.kept[node.id] or node.writes or node.random) for node in nodes]
        dead = self._dead(nodes)
        self.runs = [node.id not in dead for node in nodes]
        self.sources = [repeated_sources(node, graph) if self.forward[node.id] else () for node in nodes]
        self.early: list[list[int]] = [[] for _ in nodes]
        self.late: list[list[int]] = [[] for _ in nodes]
        self.repeaters: list[list[int]] = [[] for _ in nodes]
        self.residents: list[list[int]] = [[] for _ in graph.storages]
        for node in nodes:
            for source in self.sources[node.id]:
                self.repeaters[source].append(node.id)
            if self.runs[node.id]:
                for input_ in node.inputs:
                    (self.early if self.forward[node.id] else self.late)[input_].append(node.id)
                for storage in node.storages:
                    self.residents[storage].append(node.id)
        self.parts = parts_of(graph)
        self.temporary = [not is_saved(graph, node.id) for node in nodes]

    def _dead(self, nodes: Sequence[Node]) -> set[int]:
        """Nodes after the forward pass that nobody needs."""
        needed = {node.id for node in nodes if self.stays[node.id]}
        for node in reversed(nodes):
            if node.id in needed and not self.forward[node.id]:
                needed.update(node.inputs)
        return {node.id for node in nodes if not self.forward[node.id] and node.id not in needed}

    def is_late(self, node: int) -> bool:
        """Whether a node is a call after the forward pass."""
        return not self.forward[node] and not self.nodes[node].is_placeholder

    def first_late_use(self, storage: int) -> int | None:
        """The first node after the forward pass that takes a forward value in a storage."""
        uses = [self.late[node][0] for node in self.residents[storage] if self.forward[node] and self.late[node]]
        return min(uses, default=None)

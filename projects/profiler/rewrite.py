"""A step that keeps less: chosen activations are dropped in the forward pass and computed again in the backward pass.

What is computed again is the same to the bit: nothing random and nothing that was changed in place is, and batch norms
do not update their running statistics a second time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from projects.profiler.assemble import Call, Ref
from projects.profiler.ir import Node, Phase, Role, StepGraph, Storage
from projects.profiler.trace import TracedStep

# Where the running statistics stand among the arguments of batch norm.
_RUNNING = (3, 4)
_KEPT = {Role.PARAMETER, Role.BUFFER, Role.OPTIMIZER_STATE, Role.INPUT, Role.ACTIVATION}


def recomputable(graph: StepGraph) -> list[int]:
    """Ids of the activations that can be computed again exactly, in the order of their creation.

    An activation can if the nodes that lead to it from the step's inputs and from other activations draw no random
    numbers and change nothing, and if nothing that they read is changed later in the forward pass.
    """
    written = _last_writes(graph)
    exact: dict[int, bool] = {}
    for node in graph.nodes[graph.first_call :]:
        if node.phase is Phase.FORWARD:
            exact[node.id] = _repeats(graph, node, written) and all(
                _lies_there(graph, one) or exact.get(one, False) for one in node.inputs
            )
    return [
        one.id
        for one in graph.storages
        if one.role is Role.ACTIVATION and one.bytes and one.id not in written and exact.get(one.creator, False)
    ]


def _last_writes(graph: StepGraph) -> dict[int, int]:
    """Storage -> the last node of the forward pass that changes it; statistics of batch norms do not count."""
    return {
        storage: node.id
        for node in graph.nodes
        if node.phase is Phase.FORWARD and not node.batch_norm
        for storage in node.writes
    }


def _repeats(graph: StepGraph, node: Node, written: dict[int, int]) -> bool:
    """Whether the node gives the same again."""
    read = {storage for one in node.inputs for storage in graph.nodes[one].storages}
    changed_later = any(written.get(storage, -1) > node.id for storage in read)
    return not node.random and not changed_later and (node.batch_norm or not node.writes)


def _lies_there(graph: StepGraph, index: int) -> bool:
    """Whether a value is kept without anybody's decision, or is an activation, which is judged by itself."""
    node = graph.nodes[index]
    kept = node.storages and all(graph.storages[one].role in _KEPT for one in node.storages)
    return node.is_placeholder or bool(kept)


def rewritten(traced: TracedStep, dropped: Collection[int]) -> TracedStep:
    """The same step without some activations between forward and backward pass.

    A dropped value is computed anew just before the first node of the backward pass that takes it, with whatever of its
    sources is no longer there, and kept until the last.

    Args:
        traced: the step.
        dropped: ids of storages, some of ``recomputable(traced.graph)``.

    Raises:
        ValueError: one of them cannot be computed again.
    """
    wrong = set(dropped) - set(recomputable(traced.graph))
    if wrong:
        raise ValueError(f"storages {sorted(wrong)} cannot be computed again")
    writer = _Writer(traced, frozenset(dropped))
    for node in traced.graph.nodes:
        writer.emit(node)
    return writer.finished()


@dataclass(frozen=True)
class _Line:
    """A node of the new step, its references still positions among all lines.

    Attributes:
        node: with its new phase, storages, writes and inputs.
        call: with new references.
        fake: its fake value.
    """

    node: Node
    call: Call
    fake: Any


class _Writer:
    """Copies a step node by node, and computes again what is missing."""

    def __init__(self, traced: TracedStep, dropped: frozenset[int]) -> None:
        self._traced, self._dropped = traced, dropped
        self._lines: list[_Line] = []
        self._storages = list(traced.graph.storages)
        # Old node -> line, of its first computation and of its second.
        self._first: dict[int, int] = {}
        self._second: dict[int, int] = {}

    def emit(self, node: Node) -> None:
        """Copies a node; in the backward pass it takes anew what was dropped."""
        late = node.phase is not Phase.FORWARD
        missing = [one for one in node.inputs if late and self._is_missing(one)]
        for one in missing:
            self._compute_again(one)
        places = {one: self._second[one] if one in missing else self._first[one] for one in node.inputs}
        self._first[node.id] = self._write(node, places, self._traced.calls[node.id], again=False)

    def _is_missing(self, index: int) -> bool:
        """Whether a value of the forward pass was dropped."""
        node = self._traced.graph.nodes[index]
        return node.phase is Phase.FORWARD and any(storage in self._dropped for storage in node.storages)

    def _compute_again(self, index: int) -> None:
        """Writes the nodes that lead to a value from what is there, each once, sources first."""
        waiting = [index]
        while waiting:
            node = self._traced.graph.nodes[waiting[-1]]
            sources = self._sources(node)
            needed = [one for one in sources if self._is_gone(one) and one not in self._second]
            if needed:
                waiting += needed
                continue
            waiting.pop()
            if node.id not in self._second:
                places = {one: self._second[one] if self._is_gone(one) else self._first[one] for one in sources}
                self._second[node.id] = self._write(node, places, self._repeated_call(node), again=True)

    def _sources(self, node: Node) -> tuple[int, ...]:
        """What a second computation takes: all but a batch norm's running statistics."""
        if not node.batch_norm:
            return node.inputs
        running = {one.id for one in (self._traced.calls[node.id].args[place] for place in _RUNNING) if _is_ref(one)}
        return tuple(one for one in node.inputs if one not in running)

    def _repeated_call(self, node: Node) -> Call:
        call = self._traced.calls[node.id]
        if not node.batch_norm:
            return call
        args = tuple(None if place in _RUNNING else one for place, one in enumerate(call.args))
        return call._replace(args=args)

    def _is_gone(self, index: int) -> bool:
        """Whether a value of the forward pass is not there in the backward pass: dropped, or never kept."""
        return self._is_missing(index) or not _lies_there(self._traced.graph, index)

    def _write(self, old: Node, places: dict[int, int], call: Call, *, again: bool) -> int:
        """Adds a line; what lies in the storage of a source lies in that of the line it is taken from."""
        line, graph = len(self._lines), self._traced.graph
        moved: dict[int, int] = {}
        for source, place in places.items():
            moved |= dict(zip(graph.nodes[source].storages, self._lines[place].node.storages, strict=True))
        if again:
            for storage in old.storages:
                if storage not in moved:
                    moved[storage] = len(self._storages)
                    self._storages.append(replace(graph.storages[storage], role=Role.OTHER))
        node = replace(
            old,
            phase=Phase.BACKWARD if again else old.phase,
            storages=tuple(moved.get(one, one) for one in old.storages),
            writes=() if again else tuple(moved.get(one, one) for one in old.writes),
            inputs=tuple(places.values()),
        )
        args, kwargs = _mapped(call.args, places), _mapped(call.kwargs, places)
        self._lines.append(_Line(node, Call(call.target, args, kwargs), self._traced.fakes[old.id]))
        return line

    def finished(self) -> TracedStep:
        """The new step, without what nobody takes any more."""
        outputs = [self._first[one] for one in self._traced.graph.outputs]
        kept = _needed(self._lines, outputs)
        new = {line: index for index, line in enumerate(kept)}
        nodes, calls, fakes = [], [], []
        for line in kept:
            own = self._lines[line]
            nodes.append(replace(own.node, id=new[line], inputs=tuple(new[one] for one in own.node.inputs)))
            calls.append(Call(own.call.target, _mapped(own.call.args, new), _mapped(own.call.kwargs, new)))
            fakes.append(own.fake)
        graph = _compacted(nodes, self._storages, tuple(new[one] for one in outputs))
        return replace(self._traced, graph=graph, calls=tuple(calls), fakes=tuple(fakes))


def _needed(lines: Sequence[_Line], outputs: Sequence[int]) -> list[int]:
    """Lines that an output needs, that change something, or that draw random numbers; placeholders always."""
    needed = set(outputs)
    for line in range(len(lines) - 1, -1, -1):
        own = lines[line]
        if own.node.is_placeholder or own.node.writes or own.node.random or line in needed:
            needed.add(line)
            needed.update(own.node.inputs)
    return sorted(needed)


def _compacted(nodes: Sequence[Node], storages: Sequence[Storage], outputs: tuple[int, ...]) -> StepGraph:
    """A graph whose storages are those that its nodes use, each created by the first that does."""
    new: dict[int, int] = {}
    creators: list[int] = []
    for node in nodes:
        for storage in node.storages:
            if storage not in new:
                new[storage] = len(new)
                creators.append(node.id)
    old = {index: storage for storage, index in new.items()}
    kept = tuple(replace(storages[old[index]], id=index, creator=creator) for index, creator in enumerate(creators))
    renamed = tuple(
        replace(
            node,
            storages=tuple(new[one] for one in node.storages),
            writes=tuple(new[one] for one in node.writes),
        )
        for node in nodes
    )
    return StepGraph(renamed, kept, outputs)


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


def _mapped(value: Any, places: dict[int, int]) -> Any:
    """An argument with its references replaced."""
    if isinstance(value, Ref):
        return Ref(places[value.id])
    if isinstance(value, dict):
        return {key: _mapped(one, places) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(one, places) for one in value)
    return [_mapped(one, places) for one in value] if isinstance(value, list) else value

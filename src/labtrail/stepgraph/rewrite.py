"""A step that keeps less: chosen activations are dropped in the forward pass and computed again in the backward pass.

What is computed again is the same to the bit: random numbers are drawn from a remembered state of their generator, what
is changed in place is made again in a place of its own, and batch norms do not update their running statistics twice.

Why: docs/decisions/027-simulator-and-rewrite.md
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch

from labtrail.stepgraph import replay
from labtrail.stepgraph.assemble import Call, Ref
from labtrail.stepgraph.compat import leaves
from labtrail.stepgraph.ir import PART, Node, Phase, Role, StepGraph, Storage, compacted
from labtrail.stepgraph.trace import TracedStep

# Where the running statistics stand among the arguments of batch norm.
_RUNNING = (3, 4)
# Batch norms that cannot be called without running statistics, and so would count a batch twice.
_KEEPS_COUNTING = {"aten._native_batch_norm_legit.default", "aten._batch_norm_with_update.default"}
_KEPT = {Role.PARAMETER, Role.BUFFER, Role.OPTIMIZER_STATE, Role.INPUT, Role.ACTIVATION}


def recomputable(graph: StepGraph) -> list[int]:
    """Ids of the activations that can be computed again exactly, in the order of their creation.

    An activation can if all nodes that lead to it from the step's inputs and from other activations can be repeated:
    what they read is not changed in place later, and what they change is their own, read by nobody before it is done.
    """
    changes = _Changes(graph)
    exact: dict[int, bool] = {}
    for node in graph.nodes[graph.first_call :]:
        if node.phase is Phase.FORWARD:
            there = all(is_saved(graph, input_) or exact.get(input_, False) for input_ in node.inputs)
            exact[node.id] = there and changes.can_repeat(node)
    return [
        storage.id
        for storage in graph.storages
        if storage.role is Role.ACTIVATION
        and storage.bytes
        and all(exact.get(maker, False) for maker in (storage.creator, *changes.writers.get(storage.id, ())))
    ]


class _Changes:
    """Which storages are changed in place in the forward pass; statistics of batch norms do not count.

    Attributes:
        writers: storage -> the nodes that change it, in order.
    """

    def __init__(self, graph: StepGraph) -> None:
        self._graph = graph
        self.writers: dict[int, list[int]] = {}
        for node in graph.nodes:
            if node.phase is Phase.FORWARD and not node.batch_norm:
                for storage in node.writes:
                    self.writers.setdefault(storage, []).append(node.id)
        read_early = set()
        for node in graph.nodes:
            for storage in self._read(node):
                makers = self.writers.get(storage, ())
                if node.phase is Phase.FORWARD and makers and node.id < makers[-1] and node.id not in makers:
                    read_early.add(storage)
        outside = {storage.id for storage in graph.storages if graph.nodes[storage.creator].is_placeholder}
        # What an operator without a result has changed cannot be followed.
        silent = {
            storage for storage, makers in self.writers.items() if not all(graph.nodes[m].storages for m in makers)
        }
        self._closed = set(self.writers) - read_early - outside - silent

    def can_repeat(self, node: Node) -> bool:
        """Whether a node gives the same again, and harms nobody."""
        if node.batch_norm and node.writes and node.op in _KEEPS_COUNTING:
            return False
        repeatable = node.batch_norm or all(storage in self._closed for storage in node.writes)
        return repeatable and all(self._is_final(storage, node) for storage in self._read(node))

    def _is_final(self, storage: int, node: Node) -> bool:
        """Whether nobody changes what a node reads after it, but those who go on with its work."""
        makers = self.writers.get(storage, ())
        return not makers or node.id > makers[-1] or (node.id in makers and storage in self._closed)

    def _read(self, node: Node) -> set[int]:
        """Whose contents a node takes; a part of a result is only handed on."""
        if node.op == PART:
            return set()
        return {storage for input_ in node.inputs for storage in self._graph.nodes[input_].storages}


def is_saved(graph: StepGraph, index: int) -> bool:
    """Whether a value is kept without anybody's decision, or is an activation, which is judged by itself."""
    node = graph.nodes[index]
    kept = node.storages and all(graph.storages[storage].role in _KEPT for storage in node.storages)
    return node.is_placeholder or bool(kept)


def repeated_sources(node: Node, graph: StepGraph) -> tuple[int, ...]:
    """What a second computation takes: all inputs, but a batch norm's running statistics."""
    if not node.batch_norm:
        return node.inputs
    changed = set(node.writes)
    return tuple(input_ for input_ in node.inputs if not changed & set(graph.nodes[input_].storages))


def parts_of(graph: StepGraph) -> Mapping[int, tuple[int, ...]]:
    """For each node that takes a part of a result of several: all that do, of the same result."""
    parts: dict[int, list[int]] = {}
    for node in graph.nodes:
        if node.op == PART and node.phase is Phase.FORWARD:
            parts.setdefault(node.inputs[0], []).append(node.id)
    return {storage: tuple(together) for together in parts.values() for storage in together}


class Rewritten(NamedTuple):
    """A step that computes some activations again.

    Attributes:
        step: the new graph and its calls.
        origins: for each node the node of the old graph that it is or serves, int64 (nodes,).
        recomputed: whether it is work that the old graph does not have, bool (nodes,).
        remembers: whether it only takes the state of a generator, bool (nodes,).
    """

    step: TracedStep
    origins: np.ndarray
    recomputed: np.ndarray
    remembers: np.ndarray


def rewrite(traced: TracedStep, dropped: Collection[int]) -> Rewritten:
    """The same step without some activations between forward and backward pass.

    A dropped value is computed again just before the first node of the backward pass that takes it, with those of its
    sources that are no longer there, and kept until the last.

    Args:
        traced: the step.
        dropped: ids of storages, some of ``recomputable(traced.graph)``.

    Raises:
        ValueError: one of them cannot be computed again.
    """
    wrong = set(dropped) - set(recomputable(traced.graph))
    if wrong:
        raise ValueError(f"storages {sorted(wrong)} cannot be computed again")
    drawn: set[int] = set()
    while True:
        writer = _Writer(traced, frozenset(dropped), drawn)
        for node in traced.graph.nodes:
            writer.emit(node)
        if writer.repeated_draws() <= drawn:
            return writer.finished()
        # Only now it is known before which draws the generator's state has to be remembered.
        drawn = writer.repeated_draws()


@dataclass(frozen=True)
class _EmittedNode:
    """A node of the new step, its references still positions among all lines.

    Attributes:
        origin: the old node.
        recomputed: whether this is its second computation.
        node: with its new phase, storages, writes and inputs.
        call: with new references.
        fake: its fake value.
    """

    origin: int
    recomputed: bool
    node: Node
    call: Call
    fake: Any


class _Writer:
    """Copies a step node by node, and computes again what is missing."""

    def __init__(self, traced: TracedStep, dropped: frozenset[int], drawn: Collection[int]) -> None:
        self._traced, self._dropped, self._drawn = traced, dropped, drawn
        self._parts = parts_of(traced.graph)
        self._lines: list[_EmittedNode] = []
        self._storages = list(traced.graph.storages)
        # Old node -> line, of its first computation and of its second.
        self._first: dict[int, int] = {}
        self._second: dict[int, int] = {}
        # Old random node -> line that remembers the state before it.
        self._states: dict[int, int] = {}

    def repeated_draws(self) -> set[int]:
        """Random nodes that run twice."""
        return {index for index in self._second if self._traced.graph.nodes[index].random}

    def emit(self, node: Node) -> None:
        """Copies a node; in the backward pass it takes again what was dropped."""
        late = node.phase is not Phase.FORWARD
        missing = [input_ for input_ in node.inputs if late and self._is_missing(input_)]
        self._compute_again(missing)
        places = {input_: self._second[input_] if input_ in missing else self._first[input_] for input_ in node.inputs}
        if node.id in self._drawn:
            self._states[node.id] = self._remember(node)
        self._first[node.id] = self._write(node, places, self._traced.calls[node.id], recomputed=False)

    def _is_missing(self, index: int) -> bool:
        """Whether a value of the forward pass was dropped."""
        node = self._traced.graph.nodes[index]
        return node.phase is Phase.FORWARD and any(storage in self._dropped for storage in node.storages)

    def _compute_again(self, wanted: Collection[int]) -> None:
        """Writes the nodes that lead to some values from what is there, each once, in their order in the step."""
        graph = self._traced.graph
        waiting, needed = list(wanted), set()
        while waiting:
            index = waiting.pop()
            if index not in needed and index not in self._second:
                # A result of several is held until its last part is taken: they are taken at once.
                needed.update(self._parts.get(index, (index,)))
                waiting += [
                    repeated_source
                    for repeated_source in repeated_sources(graph.nodes[index], graph)
                    if self._is_gone(repeated_source)
                ]
        for index in sorted(needed):
            node = graph.nodes[index]
            sources = repeated_sources(node, graph)
            places = {
                source: self._second[source] if self._is_gone(source) else self._first[source] for source in sources
            }
            self._second[index] = self._write(node, places, self._repeated_call(node), recomputed=True)
            if index in self._states:
                self._draw_again(node, self._second[index])

    def _remember(self, node: Node) -> int:
        """Adds a line that takes the state of the node's generator."""
        device, generator = self._source_of_randomness(node)
        state = replay.remember(device, generator)
        storage = Storage(len(self._storages), state.numel(), -1, Role.OTHER)
        self._storages.append(storage)
        line = replace(node, op="remember", storages=(storage.id,), writes=(), inputs=(), random=False, role=Role.OTHER)
        fake = torch.empty_like(state, device="meta")
        self._lines.append(_EmittedNode(node.id, True, line, Call(replay.remember, (device, generator)), fake))
        return len(self._lines) - 1

    def _draw_again(self, node: Node, index: int) -> None:
        """Makes the second computation of a draw start from the remembered state."""
        draw_line, state = self._lines[index], self._states[node.id]
        target = replay.repeat(draw_line.call.target, *self._source_of_randomness(node))
        call = Call(target, (Ref(state), *draw_line.call.args), draw_line.call.kwargs)
        # It leaves the generator as it was: for whoever counts draws it is not random.
        again = replace(draw_line.node, inputs=(state, *draw_line.node.inputs), random=False)
        self._lines[index] = replace(draw_line, node=again, call=call)

    def _source_of_randomness(self, node: Node) -> tuple[torch.device, torch.Generator | None]:
        fake = next(iter(leaves(self._traced.fakes[node.id])))
        return fake.device, self._traced.calls[node.id].kwargs.get("generator")

    def _repeated_call(self, node: Node) -> Call:
        call = self._traced.calls[node.id]
        if not (node.batch_norm and node.writes):
            return call
        args = tuple(None if place in _RUNNING else arg for place, arg in enumerate(call.args))
        return call._replace(args=args)

    def _is_gone(self, index: int) -> bool:
        """Whether a value of the forward pass is not there in the backward pass: dropped, or never kept."""
        return self._is_missing(index) or not is_saved(self._traced.graph, index)

    def _write(self, old: Node, places: dict[int, int], call: Call, *, recomputed: bool) -> int:
        """Adds a line; what lies in the storage of a source lies in that of the line it is taken from."""
        line, graph = len(self._lines), self._traced.graph
        moved: dict[int, int] = {}
        for source, place in places.items():
            moved |= dict(zip(graph.nodes[source].storages, self._lines[place].node.storages, strict=True))
        if recomputed:
            for storage in old.storages:
                if storage not in moved:
                    moved[storage] = len(self._storages)
                    self._storages.append(replace(graph.storages[storage], role=Role.OTHER))
        node = replace(
            old,
            phase=Phase.BACKWARD if recomputed else old.phase,
            storages=tuple(moved.get(storage, storage) for storage in old.storages),
            writes=() if recomputed and old.batch_norm else tuple(moved.get(write, write) for write in old.writes),
            inputs=tuple(places.values()),
        )
        args, kwargs = _mapped(call.args, places), _mapped(call.kwargs, places)
        self._lines.append(
            _EmittedNode(old.id, recomputed, node, Call(call.target, args, kwargs), self._traced.fakes[old.id])
        )
        return line

    def finished(self) -> Rewritten:
        """The new step, without what nobody takes any more."""
        outputs = [self._first[output] for output in self._traced.graph.outputs]
        kept = _needed(self._lines, outputs)
        new = {line: index for index, line in enumerate(kept)}
        nodes, calls, fakes = [], [], []
        for line in kept:
            emitted = self._lines[line]
            nodes.append(
                replace(emitted.node, id=new[line], inputs=tuple(new[input_] for input_ in emitted.node.inputs))
            )
            calls.append(Call(emitted.call.target, _mapped(emitted.call.args, new), _mapped(emitted.call.kwargs, new)))
            fakes.append(emitted.fake)
        graph = compacted(nodes, self._storages, tuple(new[output] for output in outputs))
        step = replace(self._traced, graph=graph, calls=tuple(calls), fakes=tuple(fakes))
        origins = np.array([self._lines[line].origin for line in kept], np.int64)
        recomputed = np.array([self._lines[line].recomputed for line in kept], bool)
        states = set(self._states.values())
        return Rewritten(step, origins, recomputed, np.array([line in states for line in kept], bool))


def _needed(lines: Sequence[_EmittedNode], outputs: Sequence[int]) -> list[int]:
    """Lines that an output needs, that change something, or that draw random numbers; placeholders always."""
    needed = set(outputs)
    for line in range(len(lines) - 1, -1, -1):
        node = lines[line]
        if node.node.is_placeholder or node.node.writes or node.node.random or line in needed:
            needed.add(line)
            needed.update(node.node.inputs)
    return sorted(needed)


def _is_ref(value: Any) -> bool:
    return isinstance(value, Ref)


def _mapped(value: Any, places: dict[int, int]) -> Any:
    """An argument with its references replaced."""
    if isinstance(value, Ref):
        return Ref(places[value.id])
    if isinstance(value, dict):
        return {key: _mapped(item, places) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_mapped(element, places) for element in value)
    return [_mapped(element, places) for element in value] if isinstance(value, list) else value

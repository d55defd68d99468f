"""Elementwise results written over an input that nobody needs any more: less memory for the same numbers and time.

Why: docs/decisions/028-in-place-before-planning.md
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labtrail.stepgraph.assemble import Call, Ref
from labtrail.stepgraph.ir import PART, Node, Phase, Role, StepGraph, Storage, compacted
from labtrail.stepgraph.trace import TracedStep

_aten = torch.ops.aten
# Elementwise operators, with the overload that writes where it is told to, and the name of that argument.
_ELEMENTWISE: Mapping[Any, tuple[Any, str]] = {
    **{
        getattr(_aten, name).default: (getattr(_aten, name).out, "out")
        for name in ("relu", "gelu", "silu", "tanh", "sigmoid", "exp", "neg", "rsqrt", "hardtanh", "hardswish", "erf")
    },
    **{
        getattr(_aten, name).default: (getattr(_aten, name).grad_input, "grad_input")
        for name in (
            "threshold_backward",
            "gelu_backward",
            "silu_backward",
            "tanh_backward",
            "sigmoid_backward",
            "hardtanh_backward",
        )
    },
    **{getattr(_aten, name).Tensor: (getattr(_aten, name).out, "out") for name in ("add", "sub", "mul", "div")},
    # A row is summed before any of it is written.
    _aten._log_softmax_backward_data.default: (_aten._log_softmax_backward_data.out, "out"),
    _aten._softmax_backward_data.default: (_aten._softmax_backward_data.out, "grad_input"),
}
# Of these only the gradient, their first argument, may be written over.
_BY_ROWS = {_aten._log_softmax_backward_data.default, _aten._softmax_backward_data.default}


def in_place(traced: TracedStep) -> TracedStep:
    """The same step, its elementwise operators writing over a temporary that ends with them where there is one."""
    nodes, calls = list(traced.graph.nodes), list(traced.calls)
    lives = _Lives(traced.graph)
    for node in traced.graph.nodes:
        over = next((candidate for candidate in _offered(node, traced) if lives.can_take(node, candidate)), None)
        if over is not None:
            plain, args, kwargs = calls[node.id]
            target, name = _ELEMENTWISE[plain]
            fakes = [traced.fakes[arg.id] for arg in args if isinstance(arg, Ref)]
            strides = [_strides(fake) for fake in fakes if isinstance(fake, Tensor)]
            calls[node.id] = Call(_over(plain, target, name, strides), args, {**kwargs, name: Ref(over)})
            nodes[node.id] = replace(node, op=str(target), writes=(lives.take(node, over),))
    return replace(traced, graph=lives.merged(nodes), calls=tuple(calls))


def _over(plain: Any, target: Any, name: str, traced: Sequence[tuple[int, ...]]) -> Callable[..., Tensor]:
    """The operator over one of its inputs, if they are laid out as they were traced, or all alike.

    Some operators lay their results out otherwise than their fakes say. Where inputs turn out to differ, a result of
    its own keeps the layout that the step would have: what comes after sums in the order of the layout.

    Args:
        plain: the operator.
        target, name: the overload that writes, and its argument for that.
        traced: strides of the tensors among the operator's arguments.
    """

    def over(*args: Any, **kwargs: Any) -> Tensor:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        into = kwargs[name]
        alike = all(_strides(tensor) == _strides(into) for tensor in tensors if tensor.shape == into.shape)
        if alike or [_strides(tensor) for tensor in tensors] == traced:
            return target(*args, **kwargs)
        del kwargs[name]
        return plain(*args, **kwargs)

    return over


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Of the dimensions that have any length: others mean nothing."""
    return tuple(stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1)


def _offered(node: Node, traced: TracedStep) -> list[int]:
    """Inputs of an elementwise operator that are laid out as its result is."""
    target, args, _ = traced.calls[node.id]
    if target not in _ELEMENTWISE:
        return []
    argument_ids = [arg.id for arg in (args[:1] if target in _BY_ROWS else args) if isinstance(arg, Ref)]
    return [argument for argument in argument_ids if _layout(traced.fakes[argument]) == _layout(traced.fakes[node.id])]


def _layout(fake: Any) -> Any:
    if not isinstance(fake, Tensor):
        return None
    return fake.shape, fake.stride(), fake.storage_offset(), fake.dtype, fake.device


class _Lives:
    """Which values lie in a storage while storages are merged, and how long it is needed."""

    def __init__(self, graph: StepGraph) -> None:
        self._graph = graph
        self._last = graph.last_uses
        self._storages = list(graph.storages)
        self._merged = {storage.id: storage.id for storage in graph.storages}
        self._residents: list[list[int]] = [[] for _ in graph.storages]
        for node in graph.nodes:
            for storage in node.storages:
                self._residents[storage].append(node.id)

    def can_take(self, node: Node, over: int) -> bool:
        """Whether nobody needs the storage of an input after a node, nor may need it for recomputation."""
        results, places = node.storages, self._graph.nodes[over].storages
        if len(results) != 1 or len(places) != 1 or self._graph.storages[results[0]].creator != node.id:
            return False
        place = self._storages[self._merged[places[0]]]
        # Another view of what is written over would change while it is read.
        if any(place.id in self._places(input_) for input_ in node.inputs if input_ != over):
            return False
        creator, residents = self._graph.nodes[place.creator], self._residents[place.id]
        return (
            place.role is Role.OTHER
            and place.bytes == self._storages[results[0]].bytes
            and not creator.is_placeholder
            and creator.phase is node.phase
            and max(self._last[node] for node in residents) == node.id
            and (node.phase is not Phase.FORWARD or all(self._is_stage(node, place) for node in residents))
        )

    def _places(self, index: int) -> set[int]:
        return {self._merged[storage] for storage in self._graph.nodes[index].storages}

    def _is_stage(self, index: int, place: Storage) -> bool:
        """Whether a value in a storage is there before it is finished, and is not a view that somebody may keep."""
        node = self._graph.nodes[index]
        created = {self._merged[storage] for storage in node.storages if self._graph.storages[storage].creator == index}
        return place.id in created or node.op == PART or place.id in {self._merged[write] for write in node.writes}

    def take(self, node: Node, over: int) -> int:
        """Puts a node's result where an input lies; returns the storage."""
        result = node.storages[0]
        place = self._merged[self._graph.nodes[over].storages[0]]
        self._merged[result] = place
        self._residents[place] += self._residents[result]
        self._storages[place] = replace(self._storages[place], role=self._storages[result].role)
        return place

    def merged(self, nodes: Sequence[Node]) -> StepGraph:
        """The graph with fewer storages."""
        moved = [
            replace(
                node,
                storages=tuple(dict.fromkeys(self._merged[storage] for storage in node.storages)),
                writes=tuple(dict.fromkeys(self._merged[write] for write in node.writes)),
            )
            for node in nodes
        ]
        return compacted(moved, self._storages, self._graph.outputs)

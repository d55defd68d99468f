"""What operators allocate inside themselves and free again: found by running each distinct call once, alone.

No trace shows it. Convolutions need most: they reorder their weights.

Why: docs/decisions/024-workspace-per-operator.md
"""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labtrail.stepgraph import compat
from labtrail.stepgraph.assemble import Call, Ref
from labtrail.stepgraph.ir import Node, Phase
from labtrail.stepgraph.memory import mark, marker_bytes, peak_of, pieces
from labtrail.stepgraph.trace import TracedStep


def workspaces(traced: TracedStep) -> np.ndarray:
    """Bytes that each node needs beside its inputs and outputs, int64 (nodes,).

    The optimizer's are taken to need none: their inputs are the whole model; so are calls that refuse made-up inputs,
    and elementwise operators over one of their inputs. The random state is left as it was.
    """
    bytes_per_node = np.zeros(len(traced.graph.nodes), np.int64)
    alike: dict[Hashable, list[int]] = {}
    for node in traced.graph.nodes[traced.graph.first_call :]:
        if _computes(node, traced):
            alike.setdefault(_signature(traced.calls[node.id], traced.fakes), []).append(node.id)
    firsts = [ids[0] for ids in alike.values()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        needed = _measure(traced, firsts)
    for ids, size in zip(alike.values(), needed, strict=True):
        bytes_per_node[ids] = size
    return bytes_per_node


def _computes(node: Node, traced: TracedStep) -> bool:
    """Whether it is an operator of forward or backward pass that is not a view."""
    if node.phase is Phase.OPTIMIZER or not isinstance(traced.calls[node.id].target, torch._ops.OpOverload):
        return False
    # On a GPU fused attention hands seeds to its backward pass that cannot be made up.
    if "attention_backward" in node.op and "cpu" not in node.op:
        return False
    read = {storage for input_ in node.inputs for storage in traced.graph.nodes[input_].storages}
    return bool(node.writes) or not set(node.storages) <= read


def _signature(call: Call, fakes: tuple[Any, ...]) -> Hashable:
    """Equal for calls of one operator on tensors of the same shapes, strides and types."""

    def described(value: Any) -> Hashable:
        if isinstance(value, Ref):
            fake = fakes[value.id]
            return (tuple(fake.shape), fake.stride(), fake.dtype) if isinstance(fake, Tensor) else repr(fake)
        if isinstance(value, list | tuple):
            return tuple(described(element) for element in value)
        return repr(value)

    return (str(call.target), described(call.args), tuple((key, described(arg)) for key, arg in call.kwargs.items()))


def _measure(traced: TracedStep, chosen: list[int]) -> list[int]:
    device = next(fake.device for fake in traced.fakes if isinstance(fake, Tensor))
    if device.type == "cuda":
        return [_on_cuda(traced, index, device) for index in chosen]

    marker = marker_bytes(traced.graph)

    def run() -> None:
        for index in chosen:
            arguments = _arguments(traced, index)
            mark(marker)
            result = _called(traced.calls[index], arguments)
            mark(marker)
            del result, arguments

    # Every second piece is one call; the others are the making of arguments.
    return [_beyond(changes) for changes in pieces(compat.memory_events(run), marker)[1::2]]


def _beyond(changes: list[int]) -> int:
    held = np.cumsum([0, *changes])
    return int(held.max() - held[-1])


def _on_cuda(traced: TracedStep, index: int, device: torch.device) -> int:
    arguments = _arguments(traced, index)
    kept: list[Any] = []
    before = torch.cuda.memory_allocated(device)
    peak = peak_of(lambda: kept.append(_called(traced.calls[index], arguments)), before, device)
    return max(0, peak - torch.cuda.memory_allocated(device))


def _arguments(traced: TracedStep, index: int) -> dict[int, Any]:
    """Zeros in the shapes of the node's inputs; integers of 0 are valid indices and classes."""

    def real(fake: Any) -> Any:
        if not isinstance(fake, Tensor):
            return fake
        return torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype, device=fake.device).zero_()

    return {input_: real(traced.fakes[input_]) for input_ in traced.graph.nodes[index].inputs}


def _called(call: Call, arguments: dict[int, Any]) -> Any:
    def materialized(value: Any) -> Any:
        if isinstance(value, Ref):
            return arguments[value.id]
        if isinstance(value, list | tuple):
            return [materialized(element) for element in value]
        return value

    try:
        return call.target(*materialized(call.args), **{key: materialized(arg) for key, arg in call.kwargs.items()})
    except RuntimeError:
        # Zeros are no probabilities, for example.
        return None

"""Seconds that a machine needs at least for each node: the larger of arithmetic and memory traffic (Williams, 2009)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import flop_registry

from labtrail.stepgraph.assemble import Call, Ref
from labtrail.stepgraph.compat import leaves
from labtrail.stepgraph.ir import PART, Node, StepGraph
from labtrail.stepgraph.trace import TracedStep


class Machine(NamedTuple):
    """What a roofline knows of a device.

    Attributes:
        flops: float32 operations a second, multiply and add counted as two.
        bandwidth: bytes a second to and from memory.
    """

    flops: float
    bandwidth: float


# From the makers' data sheets, float32 without tensor cores.
MACHINES: Mapping[str, Machine] = {
    "a100": Machine(19.5e12, 1.555e12),
    "h100": Machine(66.9e12, 3.35e12),
    "v100": Machine(15.7e12, 0.9e12),
}


def roofline(traced: TracedStep, machine: Machine) -> np.ndarray:
    """Seconds of each node of a step, float64 (nodes,)."""
    return seconds_of(traced.graph, traced.calls, traced.fakes, machine)


def seconds_of(graph: StepGraph, calls: Sequence[Call], fakes: Sequence[Any], machine: Machine) -> np.ndarray:
    """Seconds of each node, float64 (nodes,); 0 for views and for what is not an operator.

    Every tensor that an operator takes or makes moves once; all of its arithmetic is done at full speed.

    Args:
        graph: of the nodes.
        calls: how each is computed.
        fakes: the fake value of each.
        machine: what runs them.
    """
    times = np.zeros(len(graph.nodes))
    for node in graph.nodes:
        if not node.is_placeholder and _works(node, graph):
            traffic = _traffic(node, fakes) / machine.bandwidth
            times[node.id] = max(_flops(calls[node.id], fakes, node.id) / machine.flops, traffic)
    return times


def _works(node: Node, graph: StepGraph) -> bool:
    """Whether a node does anything with memory: it makes a storage, or changes one."""
    made = any(graph.storages[storage].creator == node.id for storage in node.storages)
    return (made or bool(node.writes)) and node.op != PART


def _traffic(node: Node, fakes: Sequence[Any]) -> int:
    tensors = [leaf for index in (*node.inputs, node.id) for leaf in leaves(fakes[index])]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# What torch counts on GPUs only: attention in one operator, (forward, backward).
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (torch.ops.aten._scaled_dot_product_flash_attention),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        torch.ops.aten._scaled_dot_product_flash_attention_backward
    ),
}


def _flops(call: Call, fakes: Sequence[Any], index: int) -> int:
    operator = getattr(call.target, "overloadpacket", None)
    formula: Callable[..., int] | None = flop_registry.get(_CPU_ATTENTION.get(operator, operator))
    if formula is None:
        return 0

    def materialized(value: Any) -> Any:
        if isinstance(value, Ref):
            return fakes[value.id]
        if isinstance(value, list | tuple):
            return type(value)(materialized(element) for element in value)
        return value

    keywords = {key: materialized(value) for key, value in call.kwargs.items()}
    return int(formula(*(materialized(arg) for arg in call.args), **keywords, out_val=fakes[index]))

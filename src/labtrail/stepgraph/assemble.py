"""From the FX graph of a traced step to integers, and to calls that can be run."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from labtrail.stepgraph import compat
from labtrail.stepgraph.ir import PLACEHOLDER, Node, Phase, Role, StepGraph, Storage
from labtrail.stepgraph.notes import note_of

_aten = torch.ops.aten
# Operators that change arguments which their schema calls inputs: position of the switch, positions of what changes.
_HIDDEN_WRITES = {
    _aten.native_batch_norm.default: (5, (3, 4)),
    _aten.cudnn_batch_norm.default: (5, (3, 4)),
    _aten.miopen_batch_norm.default: (5, (3, 4)),
}
_BATCH_NORM = {*_HIDDEN_WRITES, _aten._native_batch_norm_legit.default, _aten._batch_norm_with_update.default}


class Ref(NamedTuple):
    """Stands for the value of a node in the arguments of a call."""

    id: int


class Call(NamedTuple):
    """How the value of a node is computed.

    Attributes:
        target: an operator, or ``operator.getitem``; None for a placeholder.
        args, kwargs: its arguments, nodes as ``Ref``.
    """

    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 a NamedTuple's default is never changed


class Assembled(NamedTuple):
    """A traced graph, taken apart; lists by node id.

    Attributes:
        graph: what is analysed.
        calls: what is run.
        fakes: the fake value of every node.
        constants: the tensors behind the last placeholders, which tracing found inside the step.
    """

    graph: StepGraph
    calls: tuple[Call, ...]
    fakes: tuple[Any, ...]
    constants: tuple[Tensor, ...]


class _Parts(NamedTuple):
    """A graph while it is put together, all lists by node id, but for the storages.

    Attributes:
        ids: FX node -> id.
        storages: of each value.
        sizes, creators: of each storage.
    """

    ids: dict[fx.Node, int]
    storages: list[tuple[int, ...]]
    sizes: list[int]
    creators: list[int]


def assemble(traced: compat.Calls, roles: Sequence[Role]) -> Assembled:
    """Integers and calls; placeholders come first, constants as the last of them.

    Args:
        traced: the FX graph.
        roles: of its placeholders, by position.
    """
    every = list(traced.graph.nodes)
    outputs = every[-1].args[0]
    placeholders = [node for node in every if node.op == "placeholder"]
    held = {node: traced.constants[str(node.target)] for node in every if node.op == "get_attr"}
    lifted = [node for node, value in held.items() if isinstance(value, Tensor)]
    # Random generators and the like are arguments, not values.
    objects = {node: value for node, value in held.items() if not isinstance(value, Tensor)}
    called = [node for node in every if node.op == "call_function" and node.target not in compat.MARKERS]
    order = [*placeholders, *lifted, *called]
    constants = tuple(held[node] for node in lifted)
    phases = _phases(order)
    parts = _storages(order)
    kept = tuple(parts.ids[node] for node in outputs)
    roles = [*roles, *[Role.OTHER] * len(lifted)]
    storage_roles = _storage_roles(order, parts, phases, roles, kept[1:])
    nodes = _after_changes(
        [_node(node, phase, parts, storage_roles) for node, phase in zip(order, phases, strict=True)]
    )
    storages = tuple(
        Storage(index, size, creator, role)
        for index, (size, creator, role) in enumerate(zip(parts.sizes, parts.creators, storage_roles, strict=True))
    )
    graph = StepGraph(nodes, storages, kept)
    fakes = tuple(node.meta.get("val") for node in order)
    return Assembled(graph, tuple(_call(node, parts.ids, objects) for node in order), fakes, constants)


def _storages(order: Sequence[fx.Node]) -> _Parts:
    parts = _Parts({}, [], [], [])
    storage_ids: dict[int, int] = {}
    for index, node in enumerate(order):
        parts.ids[node] = index
        node_storages = []
        for tensor in compat.leaves(node.meta.get("val")):
            key = compat.storage_key(tensor)
            if key not in storage_ids:
                storage_ids[key] = len(storage_ids)
                parts.sizes.append(tensor.untyped_storage().nbytes())
                parts.creators.append(index)
            node_storages.append(storage_ids[key])
        parts.storages.append(tuple(dict.fromkeys(node_storages)))
    return parts


def _phases(order: Sequence[fx.Node]) -> list[Phase]:
    """What autograd calls is backward; what comes after all of that is the optimizer's, the rest is forward."""
    backward = [note_of(node).backward for node in order]
    end = max((index for index, runs_backward in enumerate(backward) if runs_backward), default=len(order))
    return [
        Phase.BACKWARD if runs_backward else Phase.FORWARD if index < end else Phase.OPTIMIZER
        for index, runs_backward in enumerate(backward)
    ]


def _storage_roles(
    order: Sequence[fx.Node], parts: _Parts, phases: Sequence[Phase], roles: Sequence[Role], gradients: Sequence[int]
) -> list[Role]:
    """Placeholders have theirs, then gradients; activations are made in the forward and read in the backward pass."""
    storage_roles: list[Role | None] = [None] * len(parts.sizes)

    def give(index: int, role: Role) -> None:
        for storage in parts.storages[index]:
            storage_roles[storage] = storage_roles[storage] or role

    for index, role in enumerate(roles):
        give(index, role)
    for index in gradients:
        give(index, Role.GRADIENT)
    read = {
        parts.ids[input_node]
        for node, phase in zip(order, phases, strict=True)
        if phase is Phase.BACKWARD
        for input_node in node.all_input_nodes
        if input_node in parts.ids
    }
    for index in read:
        for storage in parts.storages[index]:
            if storage_roles[storage] is None and phases[parts.creators[storage]] is Phase.FORWARD:
                storage_roles[storage] = Role.ACTIVATION
    return [role or Role.OTHER for role in storage_roles]


def _node(node: fx.Node, phase: Phase, parts: _Parts, roles: Sequence[Role]) -> Node:
    index, note = parts.ids[node], note_of(node)
    storage = parts.storages[index]
    inputs = tuple(parts.ids[input_node] for input_node in node.all_input_nodes if input_node in parts.ids)
    operator = node.target if isinstance(node.target, torch._ops.OpOverload) else None
    name = str(operator) if operator else getattr(node.target, "__name__", "")
    return Node(
        id=index,
        name=node.name,
        op=name if node.op == "call_function" else PLACEHOLDER,
        phase=phase,
        role=roles[storage[0]] if storage else Role.OTHER,
        inputs=inputs,
        storages=storage,
        writes=_writes(node, operator, parts) if operator else (),
        random=compat.draws(node.target, node.args, node.kwargs),
        batch_norm=operator in _BATCH_NORM,
        module=note.module,
        source=note.source,
    )


def _after_changes(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Whoever takes a value that was changed in place through another view also takes the result of that change.

    Without it, ``y[:4].mul_(2)`` would lead to nobody, and ``y`` be computed again without it.
    """
    # Storage -> the node that changed it last; node -> the change that the value it hands on has seen, by storage.
    changed: dict[int, int] = {}
    seen: list[dict[int, int]] = []
    after = []
    for node in nodes:
        unseen = {
            changed[storage]
            for input_ in node.inputs
            for storage in nodes[input_].storages
            if changed.get(storage, -1) > seen[input_].get(storage, -1)
        }
        after.append(replace(node, inputs=(*node.inputs, *sorted(unseen - set(node.inputs)))))
        # An operator that changes an argument and returns nothing has no value to take: see ``recomputable``.
        if node.phase is Phase.FORWARD and not node.batch_norm and node.storages:
            changed |= dict.fromkeys(node.writes, node.id)
        seen.append({storage: changed[storage] for storage in node.storages if storage in changed})
    return tuple(after)


def _writes(node: fx.Node, operator: torch._ops.OpOverload, parts: _Parts) -> tuple[int, ...]:
    """Storages that the call changes, by its schema or by the table above."""
    changed: list[Any] = []
    for position, argument in enumerate(operator._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            argument_node = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            changed.extend(argument_node if isinstance(argument_node, list | tuple) else [argument_node])
    switch, hidden = _HIDDEN_WRITES.get(operator, (0, ()))
    if hidden and node.args[switch]:
        changed.extend(node.args[position] for position in hidden)
    ids = [parts.ids[storage] for storage in changed if isinstance(storage, fx.Node)]
    return tuple(dict.fromkeys(storage for id_ in ids for storage in parts.storages[id_]))


def _call(node: fx.Node, ids: dict[fx.Node, int], objects: dict[fx.Node, Any]) -> Call:
    if node.op != "call_function":
        return Call(None)
    args, kwargs = fx.map_arg(
        (node.args, node.kwargs), lambda fx_node: objects[fx_node] if fx_node in objects else Ref(ids[fx_node])
    )
    return Call(node.target, tuple(args), dict(kwargs))

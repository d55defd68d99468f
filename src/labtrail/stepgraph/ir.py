"""A training step as integers: nodes in the order of execution, and the storages that they create, read and write.

Nothing here knows torch, so analysis and search are plain functions of these tuples.

Why: docs/decisions/022-step-as-integers.md
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property


class Phase(StrEnum):
    """The part of a step that a node belongs to."""

    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


class Role(StrEnum):
    """What a storage is for."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    OPTIMIZER_STATE = "optimizer_state"
    INPUT = "input"
    GRADIENT = "gradient"
    ACTIVATION = "activation"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Node:
    """One operator call, or one value that the step is given.

    Attributes:
        id: position in the order of execution, from 0; placeholders come first.
        name: for people; nothing is looked up by it.
        op: ``aten.mm.default``, or ``placeholder``.
        phase: of the step.
        role: of the first storage of its value.
        inputs: ids of the nodes whose values it takes, without repetition, and of those that changed one of these in
            place through another view.
        storages: ids of the storages that its value lies in.
        writes: ids of the storages that it changes.
        random: it draws random numbers.
        batch_norm: it normalises by batch statistics, and may update running ones.
        module: qualified name of the module whose forward made it, or whose gradient it computes.
        source: ``file.py:12``, the innermost line outside torch; empty in the backward pass.
    """

    id: int
    name: str
    op: str
    phase: Phase
    role: Role
    inputs: tuple[int, ...]
    storages: tuple[int, ...]
    writes: tuple[int, ...]
    random: bool
    batch_norm: bool
    module: str
    source: str

    @property
    def is_placeholder(self) -> bool:
        """Whether it is a value from outside."""
        return self.op == PLACEHOLDER


@dataclass(frozen=True, slots=True)
class Storage:
    """A piece of memory that one or several values lie in.

    Attributes:
        id: index into ``StepGraph.storages``.
        bytes: its size.
        creator: id of the node whose value was the first in it.
        role: what it is for.
    """

    id: int
    bytes: int
    creator: int
    role: Role


@dataclass(frozen=True)
class StepGraph:
    """Nodes, storages, and what outlives the step.

    Attributes:
        nodes: by id.
        storages: by id.
        outputs: ids of the nodes whose values the caller keeps: the loss, then the gradients.
    """

    nodes: tuple[Node, ...]
    storages: tuple[Storage, ...]
    outputs: tuple[int, ...]

    @cached_property
    def last_uses(self) -> tuple[int, ...]:
        """For each node the id of the last node that takes its value; its own where none does.

        The values of placeholders and outputs belong to the caller: theirs is the last node of all.
        """
        last = list(range(len(self.nodes)))
        for node in self.nodes:
            for input_ in node.inputs:
                last[input_] = node.id
        end = len(self.nodes) - 1
        for kept in (*self.outputs, *(node.id for node in self.nodes if node.is_placeholder)):
            last[kept] = end
        return tuple(last)

    @property
    def first_call(self) -> int:
        """Id of the first node that is not a placeholder."""
        return next((node.id for node in self.nodes if not node.is_placeholder), len(self.nodes))

    def phase_starts(self) -> Mapping[Phase, int]:
        """Id of the first node of each phase that has any."""
        starts: dict[Phase, int] = {}
        for node in self.nodes[self.first_call :]:
            starts.setdefault(node.phase, node.id)
        return starts


def compacted(nodes: Sequence[Node], storages: Sequence[Storage], outputs: tuple[int, ...]) -> StepGraph:
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
            storages=tuple(new[storage] for storage in node.storages),
            writes=tuple(new[write] for write in node.writes),
        )
        for node in nodes
    )
    return StepGraph(renamed, kept, outputs)


PLACEHOLDER = "placeholder"
# The op of a node that takes a part of a result of several.
PART = "getitem"

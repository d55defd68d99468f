"""The peak of a step under any plan, without rewriting it: one decision changes a few lives, and only those are redone.

The figures are those of the rewritten graph, byte for byte: chains of recomputation, what they hold meanwhile, sources
that are kept longer for them, and forward work that nobody needs any more.
"""

import bisect
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from labtrail.stepgraph.ir import Node, Phase, StepGraph
from labtrail.stepgraph.rewrite import lies_there, parts_of, recomputable, repeated_sources

# Later than everything: a slot that never comes, and a place behind all recomputation of a slot.
_NEVER = 1 << 40
# Bytes that make a node count for nothing.
_NOT_RUN = -(1 << 60)

# When something happens: in which slot (the original node before which recomputation is done), after which recomputed
# node; _NEVER stands for the slot's own node.
_Moment = tuple[int, int]


class _Life(NamedTuple):
    """How long a storage is held; slots in between, and the ends of it among recomputed nodes."""

    size: int
    birth: _Moment
    death: _Moment


class Costs(NamedTuple):
    """What the nodes of a step need.

    Attributes:
        times: seconds, float64 (nodes,).
        workspace: bytes beside inputs and outputs, int64 (nodes,).
        granularity: the allocator's unit, in bytes.
        generator_bytes: of a random generator's state.
    """

    times: np.ndarray
    workspace: np.ndarray
    granularity: int = 1
    generator_bytes: int = 0


class Simulator:
    """A step under a plan that is changed one activation at a time.

    Attributes:
        able: ids of the activations that can be computed again, in the order of their creation.
        dropped: those that the present plan does not keep.
        extra_time_s: of the present plan, over that of the step that keeps all (and has no dead code).
    """

    def __init__(self, graph: StepGraph, costs: Costs) -> None:
        self.able = recomputable(graph)
        self.dropped: set[int] = set()
        self._nodes = graph.nodes
        self._times = [float(one) for one in costs.times]
        self._workspace = np.asarray(costs.workspace, np.int64)
        self._first = graph.first_call
        unit = costs.granularity
        self._size = [-(-one.bytes // unit) * unit for one in graph.storages]
        self._generator_bytes = -(-costs.generator_bytes // unit) * unit
        self._creator = [one.creator for one in graph.storages]
        self._connect(graph)
        count = len(graph.nodes)
        self._missing = [0] * count
        self._slot = [_NEVER] * count
        self._again: dict[int, list[int]] = defaultdict(list)
        self._inner: dict[int, dict[int, _Life]] = defaultdict(dict)
        self._lives: dict[int, _Life] = {}
        self._born = np.zeros(count, np.int64)
        self._held = np.zeros(count + 1, np.int64)
        self._need = np.where(self._runs, self._workspace, _NOT_RUN)
        self._picoseconds = 0
        self._run_or_not(range(count), set())
        self._picoseconds = 0
        for storage in range(len(graph.storages)):
            self._renew(storage, set())
        for storage in range(len(graph.storages)):
            if not graph.nodes[self._creator[storage]].is_placeholder:
                self._born[self._creator[storage]] += self._size[storage]

    def _connect(self, graph: StepGraph) -> None:
        """Who takes whose value, and what lies where."""
        nodes = graph.nodes
        self._forward = [node.phase is Phase.FORWARD and not node.is_placeholder for node in nodes]
        kept = set(graph.outputs)
        self._kept = [node.id in kept or node.is_placeholder for node in nodes]
        self._stays = [bool(self._kept[node.id] or node.writes or node.random) for node in nodes]
        dead = self._dead(nodes)
        self._runs = [node.id not in dead for node in nodes]
        self._sources = [repeated_sources(node, graph) if self._forward[node.id] else () for node in nodes]
        self._early: list[list[int]] = [[] for _ in nodes]
        self._late: list[list[int]] = [[] for _ in nodes]
        self._repeaters: list[list[int]] = [[] for _ in nodes]
        for node in nodes:
            for one in node.inputs if node.id not in dead else ():
                (self._early if self._forward[node.id] else self._late)[one].append(node.id)
            for one in self._sources[node.id]:
                self._repeaters[one].append(node.id)
        self._lying: list[list[int]] = [[] for _ in graph.storages]
        for node in nodes:
            for storage in node.storages if node.id not in dead else ():
                self._lying[storage].append(node.id)
        self._parts = parts_of(graph)
        self._fleeting = [not lies_there(graph, node.id) for node in nodes]

    def _dead(self, nodes: Sequence[Node]) -> set[int]:
        """Nodes after the forward pass that nobody needs."""
        needed = {node.id for node in nodes if self._stays[node.id]}
        for node in reversed(nodes):
            if node.id in needed and not self._forward[node.id]:
                needed.update(node.inputs)
        return {node.id for node in nodes if not self._forward[node.id] and node.id not in needed}

    @property
    def peak_bytes(self) -> int:
        """The most bytes needed at once under the present plan, workspace included."""
        return int((self._held[:-1] + self._need)[self._first :].max())

    @property
    def extra_time_s(self) -> float:
        """Seconds over those of the step as it is; whole picoseconds are summed, so that it does not drift."""
        return self._picoseconds * 1e-12

    def needed(self) -> np.ndarray:
        """Bytes needed while each node of the step as it is runs, what is recomputed before it included, (nodes,)."""
        return self._held[:-1] + self._need

    def adopt(self, dropped: Collection[int]) -> None:
        """Makes a plan the present one."""
        for storage in self.dropped ^ set(dropped):
            self.flip(storage)

    def flip(self, storage: int) -> None:
        """Drops an activation that is kept, or keeps one that is dropped."""
        change = -1 if storage in self.dropped else 1
        self.dropped ^= {storage}
        lying = [one for one in self._lying[storage] if self._forward[one]]
        for one in lying:
            self._missing[one] += change
        dirty = {storage}
        slots: set[int] = set()
        moved = self._place(lying, slots)
        self._run_or_not({*lying, *(one for node in moved for one in self._sources[node])}, dirty)
        for node in moved:
            self._renew_state(node, slots)
            dirty.update(self._nodes[node].storages)
            for one in self._sources[node]:
                dirty.update(self._nodes[one].storages)
        for one in dirty:
            self._renew(one, slots)
        for slot in slots:
            self._measure(slot)

    def _is_late(self, node: int) -> bool:
        return not self._forward[node] and not self._nodes[node].is_placeholder

    def _gone(self, node: int) -> bool:
        return self._fleeting[node] or self._missing[node] > 0

    def _place(self, changed: Iterable[int], slots: set[int]) -> list[int]:
        """Finds anew when each node is repeated, consumers before sources; those that moved."""
        waiting = [-part for one in changed for part in self._together(one)]
        heapq.heapify(waiting)
        moved, last = [], -1
        while waiting:
            node = -heapq.heappop(waiting)
            if node == last:
                continue
            last = node
            old, new = self._slot[node], self._first_need(node)
            if new == old:
                continue
            self._slot[node] = new
            moved.append(node)
            if old != _NEVER:
                self._again[old].remove(node)
                slots.add(old)
            if new != _NEVER:
                bisect.insort(self._again[new], node)
                slots.add(new)
            self._picoseconds += self._cost(node) * ((new != _NEVER) - (old != _NEVER))
            for one in self._sources[node]:
                for part in self._together(one) if self._forward[one] else ():
                    heapq.heappush(waiting, -part)
        return moved

    def _together(self, node: int) -> Sequence[int]:
        """A node, with the other parts of the same result if it is one."""
        return self._parts.get(node, (node,))

    def _cost(self, node: int) -> int:
        return round(self._times[node] * 1e12)

    def _first_need(self, node: int) -> int:
        """The slot in which a node has to be repeated; parts of one result are taken out of it at once."""
        own = self._own_need(node)
        return own if own == _NEVER else min([own, *(self._own_need(one) for one in self._parts.get(node, ()))])

    def _own_need(self, node: int) -> int:
        if not self._gone(node):
            return _NEVER
        first = min((self._slot[one] for one in self._repeaters[node]), default=_NEVER)
        if self._missing[node] and self._late[node]:
            first = min(first, self._late[node][0])
        return first

    def _run_or_not(self, changed: Iterable[int], dirty: set[int]) -> None:
        """Finds anew which nodes of the forward pass somebody still needs."""
        waiting = [-one for one in set(changed) if self._forward[one] and not self._stays[one]]
        heapq.heapify(waiting)
        while waiting:
            node = -heapq.heappop(waiting)
            runs = self._is_needed(node)
            if runs == self._runs[node]:
                continue
            self._runs[node] = runs
            self._need[node] = self._workspace[node] if runs else _NOT_RUN
            self._picoseconds += self._cost(node) * (1 if runs else -1)
            dirty.update(self._nodes[node].storages)
            for one in self._nodes[node].inputs:
                dirty.update(self._nodes[one].storages)
                if self._forward[one] and not self._stays[one]:
                    heapq.heappush(waiting, -one)

    def _is_needed(self, node: int) -> bool:
        if any(self._runs[one] for one in self._early[node]):
            return True
        if self._late[node] and not self._missing[node]:
            return True
        return not self._gone(node) and any(self._slot[one] != _NEVER for one in self._repeaters[node])

    def _renew(self, storage: int, slots: set[int]) -> None:
        """Finds anew how long a storage and its second making are held."""
        self._replace(2 * storage, self._own_life(storage), slots)
        self._replace(2 * storage + 1, self._second_life(storage), slots)

    def _renew_state(self, node: int, slots: set[int]) -> None:
        """A draw that is repeated needs the state that its generator had."""
        if self._nodes[node].random:
            slot = self._slot[node]
            life = _Life(self._generator_bytes, (node, _NEVER), (slot, node)) if slot != _NEVER else None
            self._replace(-1 - node, life, slots)

    def _replace(self, key: int, life: _Life | None, slots: set[int]) -> None:
        old = self._lives.pop(key, None)
        if life:
            self._lives[key] = life
        if old != life:
            for one, sign in ((old, -1), (life, 1)):
                if one:
                    self._book(key, one, sign, slots)

    def _own_life(self, storage: int) -> _Life | None:
        creator = self._creator[storage]
        if not self._runs[creator]:
            return None
        death: _Moment = (creator, _NEVER)
        dropped = storage in self.dropped
        end = len(self._nodes) - 1
        for node in self._lying[storage]:
            if not self._runs[node] or (dropped and self._is_late(node)):
                continue
            if self._kept[node]:
                death = (end, _NEVER)
            uses = [one for one in self._early[node] if self._runs[one]]
            if not self._missing[node]:
                uses += self._late[node][-1:]
            death = max(death, (max([node, *uses]), _NEVER))
            if not self._gone(node):
                again = [(self._slot[one], one) for one in self._repeaters[node] if self._slot[one] != _NEVER]
                death = max([death, *again])
        placeholder = self._nodes[creator].is_placeholder
        return _Life(self._size[storage], (0 if placeholder else creator, _NEVER), death)

    def _second_life(self, storage: int) -> _Life | None:
        creator = self._creator[storage]
        birth = (self._slot[creator], creator)
        if birth[0] == _NEVER:
            return None
        death = birth
        for node in self._lying[storage]:
            if self._is_late(node):
                if storage in self.dropped:
                    uses = [len(self._nodes) - 1] if self._kept[node] else self._late[node][-1:]
                    death = max(death, (max([node, *uses]), _NEVER))
                continue
            if self._slot[node] == _NEVER:
                continue
            death = max(death, (self._slot[node], node))
            if self._missing[node] and self._late[node]:
                death = max(death, (self._late[node][-1], _NEVER))
            again = [(self._slot[one], one) for one in self._repeaters[node] if self._slot[one] != _NEVER]
            death = max([death, *again])
        return _Life(self._size[storage], birth, death)

    def _book(self, key: int, life: _Life, sign: int, slots: set[int]) -> None:
        """Adds a life to what is held at nodes, and to the slots in which it begins or ends among recomputed nodes."""
        first, (last, within) = life.birth[0], life.death
        stop = last + 1 if within == _NEVER else last
        if stop > first:
            self._held[first:stop] += sign * life.size
        for slot in {slot for slot, place in (life.birth, life.death) if place != _NEVER}:
            slots.add(slot)
            if sign > 0:
                self._inner[slot][key] = life
            else:
                del self._inner[slot][key]

    def _measure(self, slot: int) -> None:
        """The most that recomputation before a node needs, beyond what is held at that node."""
        nodes = self._again[slot]
        need = int(self._workspace[slot])
        if nodes:
            before, begun = self._inside(slot)
            held = begun.pop(-1, 0)
            most = _NOT_RUN
            gone: dict[int, int] = before
            for node in nodes:
                held += begun.get(node, 0)
                most = max(most, held + int(self._workspace[node]))
                held -= gone.get(node, 0)
            need = max(need, most - int(self._born[slot]) - self._born_again(slot))
        self._need[slot] = need

    def _inside(self, slot: int) -> tuple[dict[int, int], dict[int, int]]:
        """({node: bytes freed after it}, {node: bytes that begin with it, -1: that are there}) of one slot's ends."""
        freed: dict[int, int] = defaultdict(int)
        begun: dict[int, int] = defaultdict(int)
        for life in self._inner[slot].values():
            begun[life.birth[1] if life.birth[0] == slot else -1] += life.size
            if life.death[0] == slot and life.death[1] != _NEVER:
                freed[life.death[1]] += life.size
        return freed, begun

    def _born_again(self, slot: int) -> int:
        """Bytes that are made again in a slot and still held at its node."""
        return sum(
            life.size for life in self._inner[slot].values() if life.birth[0] == slot and life.death >= (slot, _NEVER)
        )

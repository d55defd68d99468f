"""The peak of a step under any plan, without rewriting it: one decision changes a few lives, and only those are redone.

The figures are those of the rewritten graph, byte for byte: chains of recomputation, what they hold meanwhile, sources
that are kept longer for them, and forward work that nobody needs any more.

Why: docs/decisions/027-simulator-and-rewrite.md
"""

import bisect
import heapq
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from labtrail.stepgraph.flow import Flow
from labtrail.stepgraph.ir import StepGraph
from labtrail.stepgraph.rewrite import recomputable

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
        flow: who takes whose value.
    """

    def __init__(self, graph: StepGraph, costs: Costs) -> None:
        self.able = recomputable(graph)
        self.dropped: set[int] = set()
        self.flow = flow = Flow(graph, costs.granularity)
        self._times = [float(time) for time in costs.times]
        self._workspace = np.asarray(costs.workspace, np.int64)
        self._generator_bytes = -(-costs.generator_bytes // costs.granularity) * costs.granularity
        self._runs = list(flow.runs)
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
            if not graph.nodes[self.flow.creators[storage]].is_placeholder:
                self._born[self.flow.creators[storage]] += self.flow.sizes[storage]

    @property
    def peak_bytes(self) -> int:
        """The most bytes needed at once under the present plan, workspace included."""
        return int((self._held[:-1] + self._need)[self.flow.first_call :].max())

    @property
    def extra_time_s(self) -> float:
        """Seconds over those of the step that keeps all; whole picoseconds are summed, so that it does not drift."""
        return self._picoseconds * 1e-12

    def needed(self) -> np.ndarray:
        """Bytes needed while each node of the step as it is runs, what is recomputed before it included, (nodes,)."""
        return self._held[:-1] + self._need

    def life(self, storage: int) -> tuple[int, int] | None:
        """(first, last) node of the step as it is that a storage is held at; None if it is never made."""
        life = self._lives.get(2 * storage)
        return life and (life.birth[0], life.death[0])

    def adopt(self, dropped: Collection[int]) -> None:
        """Makes a plan the present one."""
        for storage in self.dropped ^ set(dropped):
            self.flip(storage)

    def flip(self, storage: int) -> None:
        """Drops an activation that is kept, or keeps one that is dropped."""
        change = -1 if storage in self.dropped else 1
        self.dropped ^= {storage}
        writers = [node for node in self.flow.residents[storage] if self.flow.forward[node]]
        for node in writers:
            self._missing[node] += change
        dirty = {storage}
        slots: set[int] = set()
        moved = self._place(writers, slots)
        self._run_or_not({*writers, *(source for node in moved for source in self.flow.sources[node])}, dirty)
        for node in moved:
            self._renew_state(node, slots)
            dirty.update(self.flow.nodes[node].storages)
            for source in self.flow.sources[node]:
                dirty.update(self.flow.nodes[source].storages)
        for dirty_storage in dirty:
            self._renew(dirty_storage, slots)
        for slot in slots:
            self._measure(slot)

    def _gone(self, node: int) -> bool:
        return self.flow.temporary[node] or self._missing[node] > 0

    def _place(self, changed: Iterable[int], slots: set[int]) -> list[int]:
        """Finds again when each node is repeated, consumers before sources; those that moved."""
        waiting = [-part for storage in changed for part in self._together(storage)]
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
            for source in self.flow.sources[node]:
                for part in self._together(source) if self.flow.forward[source] else ():
                    heapq.heappush(waiting, -part)
        return moved

    def _together(self, node: int) -> Sequence[int]:
        """A node, with the other parts of the same result if it is one."""
        return self.flow.parts.get(node, (node,))

    def _cost(self, node: int) -> int:
        return round(self._times[node] * 1e12)

    def _first_need(self, node: int) -> int:
        """The slot in which a node has to be repeated; parts of one result are taken out of it at once."""
        first = self._own_need(node)
        return (
            first
            if first == _NEVER
            else min([first, *(self._own_need(part) for part in self.flow.parts.get(node, ()))])
        )

    def _own_need(self, node: int) -> int:
        if not self._gone(node):
            return _NEVER
        first = min((self._slot[repeater] for repeater in self.flow.repeaters[node]), default=_NEVER)
        if self._missing[node] and self.flow.late[node]:
            first = min(first, self.flow.late[node][0])
        return first

    def _run_or_not(self, changed: Iterable[int], dirty: set[int]) -> None:
        """Finds again which nodes of the forward pass somebody still needs."""
        waiting = [-storage for storage in set(changed) if self.flow.forward[storage] and not self.flow.stays[storage]]
        heapq.heapify(waiting)
        while waiting:
            node = -heapq.heappop(waiting)
            runs = self._is_needed(node)
            if runs == self._runs[node]:
                continue
            self._runs[node] = runs
            self._need[node] = self._workspace[node] if runs else _NOT_RUN
            self._picoseconds += self._cost(node) * (1 if runs else -1)
            dirty.update(self.flow.nodes[node].storages)
            for input_ in self.flow.nodes[node].inputs:
                dirty.update(self.flow.nodes[input_].storages)
                if self.flow.forward[input_] and not self.flow.stays[input_]:
                    heapq.heappush(waiting, -input_)

    def _is_needed(self, node: int) -> bool:
        if any(self._runs[storage] for storage in self.flow.early[node]):
            return True
        if self.flow.late[node] and not self._missing[node]:
            return True
        return not self._gone(node) and any(self._slot[repeater] != _NEVER for repeater in self.flow.repeaters[node])

    def _renew(self, storage: int, slots: set[int]) -> None:
        """Finds again how long a storage and its second making are held."""
        self._replace(2 * storage, self._own_life(storage), slots)
        self._replace(2 * storage + 1, self._second_life(storage), slots)

    def _renew_state(self, node: int, slots: set[int]) -> None:
        """A draw that is repeated needs the state that its generator had."""
        if self.flow.nodes[node].random:
            slot = self._slot[node]
            life = _Life(self._generator_bytes, (node, _NEVER), (slot, node)) if slot != _NEVER else None
            self._replace(-1 - node, life, slots)

    def _replace(self, key: int, life: _Life | None, slots: set[int]) -> None:
        old = self._lives.pop(key, None)
        if life:
            self._lives[key] = life
        if old != life:
            for interval, sign in ((old, -1), (life, 1)):
                if interval:
                    self._book(key, interval, sign, slots)

    def _own_life(self, storage: int) -> _Life | None:
        creator = self.flow.creators[storage]
        if not self._runs[creator]:
            return None
        death: _Moment = (creator, _NEVER)
        dropped = storage in self.dropped
        end = len(self.flow.nodes) - 1
        for node in self.flow.residents[storage]:
            if not self._runs[node] or (dropped and self.flow.is_late(node)):
                continue
            if self.flow.kept[node]:
                death = (end, _NEVER)
            uses = [storage for storage in self.flow.early[node] if self._runs[storage]]
            if not self._missing[node]:
                uses += self.flow.late[node][-1:]
            death = max(death, (max([node, *uses]), _NEVER))
            if not self._gone(node):
                again = [
                    (self._slot[repeater], repeater)
                    for repeater in self.flow.repeaters[node]
                    if self._slot[repeater] != _NEVER
                ]
                death = max([death, *again])
        placeholder = self.flow.nodes[creator].is_placeholder
        return _Life(self.flow.sizes[storage], (0 if placeholder else creator, _NEVER), death)

    def _second_life(self, storage: int) -> _Life | None:
        creator = self.flow.creators[storage]
        birth = (self._slot[creator], creator)
        if birth[0] == _NEVER:
            return None
        death = birth
        for node in self.flow.residents[storage]:
            if self.flow.is_late(node):
                if storage in self.dropped:
                    uses = [len(self.flow.nodes) - 1] if self.flow.kept[node] else self.flow.late[node][-1:]
                    death = max(death, (max([node, *uses]), _NEVER))
                continue
            if self._slot[node] == _NEVER:
                continue
            death = max(death, (self._slot[node], node))
            if self._missing[node] and self.flow.late[node]:
                death = max(death, (self.flow.late[node][-1], _NEVER))
            again = [
                (self._slot[repeater], repeater)
                for repeater in self.flow.repeaters[node]
                if self._slot[repeater] != _NEVER
            ]
            death = max([death, *again])
        return _Life(self.flow.sizes[storage], birth, death)

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

"""Plans as a mixed integer linear program, solved by HiGHS: the least extra time, and a proof of how near it is.

The program is a relaxation, so its optimum is a lower bound for every plan. It counts all time exactly, and of memory
what is kept; what recomputation holds before it is needed is written down for chosen nodes only, those at which a
solution turns out to be too large, and only for activations near them. A solution that is below the target in the
simulator is therefore optimal.

Why: docs/decisions/026-plans-that-learn.md
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from labtrail.stepgraph.simulate import Costs, Simulator

# Bytes and seconds are scaled so that coefficients are near 1.
_BYTES = 1e-6
# Of so many activations on either side of a node early recomputation is written down.
_NEAR = 60
_OPTIMAL, _LIMIT, _INFEASIBLE = 0, 1, 2


class Solution(NamedTuple):
    """What the solver found.

    Attributes:
        dropped: the best choice; None if there was no time to find one.
        bound_s: no plan takes less extra time.
    """

    dropped: frozenset[int] | None
    bound_s: float


@dataclass
class _Rows:
    """Rows of a constraint matrix: sum of coefficients times variables >= least."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)

    def add(self, terms: Iterable[tuple[int, float]], least: float) -> None:
        for column, value in terms:
            self.rows.append(len(self.least))
            self.columns.append(column)
            self.values.append(value)
        self.least.append(least)

    def constraint(self, variables: int) -> LinearConstraint:
        shape = (len(self.least), variables)
        return LinearConstraint(csr_array((self.values, (self.rows, self.columns)), shape=shape), self.least, np.inf)


class Relaxation:
    """The program of one step; targets and chosen nodes vary.

    Variables: x_d, whether activation d is dropped; r_n, whether node n of the forward pass is repeated; and for each
    chosen node p of the backward pass y_np, whether n has been repeated by then, and z_dp, whether d is away at p.
    """

    def __init__(self, simulator: Simulator, costs: Costs, candidates: Sequence[int]) -> None:
        """
        Args:
            simulator: of the step; its plan keeps all.
            costs: the simulator's.
            candidates: activations to decide on; all others are kept.
        """
        self._flow = flow = simulator.flow
        self._x = {storage: column for column, storage in enumerate(candidates)}
        self._calls = [node for node, forward in enumerate(flow.forward) if forward]
        self._r = {node: len(self._x) + column for column, node in enumerate(self._calls)}
        self._movable = self._can_move()
        self._scale = 1 / max(float(np.sum(costs.times)), 1e-30)
        self._costs = np.zeros(len(self._x) + len(self._r))
        for node, column in self._r.items():
            if node not in self._movable:
                self._costs[column] = costs.times[node] * self._scale
        self._saved = self._savings(simulator)
        self._fixed = self._least_need(simulator, costs)
        self._chains = self._chain_rows(self._r, self._x, None)

    def _can_move(self) -> set[int]:
        """Nodes that may run in the backward pass alone, so that they cost nothing more."""
        flow, movable = self._flow, set()
        for node in reversed(self._calls):
            needed = flow.stays[node] or any(storage not in movable for storage in flow.early[node])
            droppable = any(storage in self._x for storage in flow.nodes[node].storages)
            if not needed and (droppable or not flow.late[node]):
                movable.add(node)
        return movable

    def _last_early_use(self, storage: int) -> int:
        """The last node of the forward pass that certainly needs a storage."""
        flow = self._flow
        certain = [node for node in flow.residents[storage] if flow.forward[node] and node not in self._movable]
        uses = [use for node in certain for use in flow.early[node] if use not in self._movable]
        return max([flow.creators[storage], *certain, *uses])

    def _savings(self, simulator: Simulator) -> np.ndarray:
        """Bytes that are away at each node if a candidate is dropped, at most; float64 (nodes, candidates)."""
        flow = self._flow
        saved = np.zeros((len(flow.nodes), len(self._x)))
        for storage, column in self._x.items():
            life, back = simulator.life(storage), flow.first_late_use(storage)
            if life is not None:
                end = life[1] + 1 if back is None else min(back, life[1] + 1)
                saved[self._last_early_use(storage) + 1 : end, column] = flow.sizes[storage]
        return saved

    def _least_need(self, simulator: Simulator, costs: Costs) -> np.ndarray:
        """Bytes needed at each node if all candidates are kept, at least; -inf where no node may run; (nodes,)."""
        flow = self._flow
        need = np.zeros(len(flow.nodes) + 1)
        for storage, size in enumerate(flow.sizes):
            life = simulator.life(storage)
            if life is None:
                continue
            first, last = life
            if flow.forward[flow.creators[storage]] and storage not in self._x and not self._is_read_late(storage):
                if flow.creators[storage] in self._movable:
                    continue
                last = min(last, self._last_early_use(storage))
            need[first] += size
            need[last + 1] -= size
        needs = np.cumsum(need)[:-1] + costs.workspace
        runs = [runs and node not in self._movable for node, runs in enumerate(flow.runs)]
        needs[~np.array(runs)] = -np.inf
        needs[: flow.first_call] = -np.inf
        return needs

    def _is_read_late(self, storage: int) -> bool:
        flow = self._flow
        return any(flow.kept[node] or flow.late[node] or flow.is_late(node) for node in flow.residents[storage])

    def _chain_rows(self, place: dict[int, int], chosen: dict[int, int], by: int | None) -> _Rows:
        """A repeated node needs its sources: repeated too, or kept.

        Args:
            place: node -> its variable; nodes without one are left out.
            chosen: candidate -> its variable.
            by: only what is needed at this node or before; None: all.
        """
        flow, rows = self._flow, _Rows()
        for node, column in place.items():
            if flow.late[node] and (by is None or flow.late[node][0] <= by):
                for storage in flow.nodes[node].storages:
                    if storage in chosen:
                        rows.add([(column, 1), (chosen[storage], -1)], 0)
            for source in flow.sources[node]:
                if source not in place:
                    continue
                if flow.temporary[source]:
                    rows.add([(place[source], 1), (column, -1)], 0)
                for storage in flow.nodes[source].storages if not flow.temporary[source] else ():
                    if storage in chosen:
                        rows.add([(place[source], 1), (column, -1), (chosen[storage], -1)], -1)
        return rows

    def solve(
        self, target_bytes: float, chosen: Collection[int], excluded: Sequence[Collection[int]], limit_s: float
    ) -> Solution | None:
        """The cheapest choice whose memory, as far as it is written down, is below a target.

        Args:
            target_bytes: the most that may be needed at once.
            chosen: nodes at which early recomputation is written down.
            excluded: choices known to be too large.
            limit_s: seconds for the solver.

        Returns:
            None if there is none: then no plan at all reaches the target.

        Raises:
            RuntimeError: HiGHS failed; says why.
        """
        over = self._fixed - target_bytes
        rows, variables = _Rows(), len(self._costs)
        for node in self._binding(over, chosen):
            away = np.flatnonzero(self._saved[node])
            rows.add(((int(storage), self._saved[node, storage] * _BYTES) for storage in away), over[node] * _BYTES)
        constraints = []
        for node in chosen:
            if over[node] > 0:
                inside, variables = self._near_rows(node, variables, over[node])
                constraints.append(inside)
        for choice in excluded:
            terms = [(column, -1.0 if storage in choice else 1.0) for storage, column in self._x.items()]
            rows.add(terms, 1 - len(choice))
        parts = [
            constraint.constraint(variables) for constraint in (self._chains, rows, *constraints) if constraint.least
        ]
        costs = np.concatenate([self._costs, np.zeros(variables - len(self._costs))])
        integral = np.zeros(variables)
        integral[: len(self._x)] = 1
        solution = milp(
            costs,
            constraints=parts,
            integrality=integral,
            bounds=Bounds(0, 1),
            options={"time_limit": limit_s, "mip_rel_gap": 1e-3},
        )
        if solution.status == _INFEASIBLE:
            return None
        if solution.status not in (_OPTIMAL, _LIMIT):
            raise RuntimeError(f"HiGHS: {solution.message}")
        bound = max(0.0, solution.mip_dual_bound or 0.0) / self._scale
        if solution.x is None:
            return Solution(None, bound)
        return Solution(frozenset(storage for storage, column in self._x.items() if solution.x[column] > 0.5), bound)

    def _binding(self, over: np.ndarray, chosen: Collection[int]) -> list[int]:
        """Of the nodes that may be too large the largest for each set of activations that can be away there."""
        worst: dict[bytes, int] = {}
        for node in np.flatnonzero(over > 0):
            if node not in chosen:
                key = (self._saved[node] > 0).tobytes()
                if key not in worst or over[worst[key]] < over[node]:
                    worst[key] = int(node)
        return list(worst.values())

    def _near_rows(self, by: int, first: int, over: float) -> tuple[_Rows, int]:
        """(rows of a chosen node, number of variables with its own)."""
        flow, near = self._flow, self._near(by)
        place = {node: first + offset for offset, node in enumerate(near)}
        variables = first + len(near)
        rows = self._chain_rows(place, self._x, by) if flow.is_late(by) else _Rows()
        away = []
        for storage, column in self._x.items():
            if not self._saved[by, column]:
                continue
            creator = flow.creators[storage]
            if creator not in place or not flow.is_late(by):
                away.append((column, self._saved[by, column] * _BYTES))
                continue
            rows.add([(column, 1), (variables, -1)], 0)
            rows.add([(variables, -1), (place[creator], -1)], -1)
            away.append((variables, self._saved[by, column] * _BYTES))
            variables += 1
        rows.add(away, over * _BYTES)
        return rows, variables

    def _near(self, by: int) -> Sequence[int]:
        """Nodes that make the activations whose turn is next at a node of the backward pass, and those just over."""
        flow = self._flow
        creators = sorted(flow.creators[storage] for storage in self._x)
        waiting = [flow.creators[storage] for storage, column in self._x.items() if self._saved[by, column]]
        middle = creators.index(max(waiting)) if waiting else 0
        low, high = max(0, middle - _NEAR), min(len(creators) - 1, middle + _NEAR)
        first = 0 if low == 0 else creators[low]
        last = len(flow.nodes) if high == len(creators) - 1 else creators[high]
        return [node for node in self._calls if first <= node <= last]

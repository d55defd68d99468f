"""Which activations to compute again so that a peak stays below a target, what that costs, and what it must cost.

Why: docs/decisions/026-plans-that-learn.md
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from labtrail.errors import LabtrailError
from labtrail.stepgraph.ir import StepGraph
from labtrail.stepgraph.milp import Relaxation
from labtrail.stepgraph.search import descend, trim
from labtrail.stepgraph.simulate import Costs, Simulator

# Activations that together are less than this share of the peak are kept: they cannot help.
_SMALL = 1e-6
# Numbers by themselves are kept as well: a program in megabytes does not see them.
_SCALAR_BYTES = 64
# Nodes that the program learns about at once, and how far apart.
_LEARNT, _APART = 4, 10
# Descents go down in steps, since what helps far above a target harms near it.
_STRIDE = 0.05
# How far below the lowest peak known so far the next is looked for.
_SINK = 0.02
# A plan this near to its bound is good enough.
_ENOUGH = 1e-2


class InfeasibleError(LabtrailError):
    """A target that no plan reaches; says what the least is."""


class Plan(NamedTuple):
    """What is computed again, and what comes of it.

    Attributes:
        dropped: storages of the graph.
        target_bytes: what was asked for.
        peak_bytes: of the step under the plan, workspace included.
        extra_time_s: of the nodes that run twice.
        bound_s: no plan below the target takes less, small activations kept; 0 if nothing is known.
        solver: what found it.
    """

    dropped: frozenset[int]
    target_bytes: float
    peak_bytes: int
    extra_time_s: float
    bound_s: float
    solver: str

    @property
    def gap(self) -> float:
        """Share of the extra time that is not proven to be needed."""
        return max(0.0, 1 - self.bound_s / self.extra_time_s) if self.extra_time_s > 0 else 0.0


class Planner:
    """Looks for plans of one step; what it learns for one target helps with the next.

    Attributes:
        peak_bytes: of the step that keeps all.
        candidates: activations that are decided on.
    """

    def __init__(self, graph: StepGraph, costs: Costs, base_bytes: int | None = None) -> None:
        """
        Args:
            graph: of the step.
            costs: of its nodes.
            base_bytes: what shares in messages refer to; None: the peak of the step that keeps all.
        """
        self._simulator = Simulator(graph, costs)
        self.peak_bytes = self._simulator.peak_bytes
        self._base_bytes = base_bytes or self.peak_bytes
        self.candidates = self._worthwhile()
        self._relaxation = Relaxation(self._simulator, costs, self.candidates)
        self._plans: list[Plan] = [self._present(0, "none")]
        self._descended = [self._plans[0]]

    def _worthwhile(self) -> list[int]:
        sizes = self._simulator.flow.sizes
        rising = sorted(self._simulator.able, key=lambda storage: sizes[storage])
        small = np.cumsum([sizes[storage] for storage in rising]) < _SMALL * self.peak_bytes
        kept = {
            storage
            for storage, too_small in zip(rising, small, strict=True)
            if too_small or sizes[storage] < _SCALAR_BYTES
        }
        return [storage for storage in self._simulator.able if storage not in kept]

    def _present(self, target_bytes: float, solver: str, bound_s: float = 0.0) -> Plan:
        now = self._simulator
        return Plan(frozenset(now.dropped), target_bytes, now.peak_bytes, now.extra_time_s, bound_s, solver)

    def greedy(self, target_bytes: float) -> Plan | None:
        """The plan of local search alone; None if it gets stuck above the target."""
        for step in self._steps(target_bytes):
            lowest = self._descended[-1]
            if step >= lowest.peak_bytes:
                continue
            self._simulator.adopt(lowest.dropped)
            if not descend(self._simulator, self.candidates, step):
                return None
            trim(self._simulator, self.candidates, step)
            self._note("greedy", step)
            self._descended.append(self._plans[-1])
        return min(self._below(target_bytes, "greedy"), key=lambda plan: plan.extra_time_s, default=None)

    def _steps(self, target_bytes: float) -> Iterator[float]:
        """Targets from the lowest one that was descended to, down to this one."""
        now = float(self._descended[-1].peak_bytes)
        while now > target_bytes:
            now = max(now - _STRIDE * self.peak_bytes, target_bytes)
            yield now

    def _note(self, solver: str, target_bytes: float) -> None:
        self._plans.append(self._present(target_bytes, solver))

    def _below(self, target_bytes: float, solver: str = "") -> list[Plan]:
        return [plan for plan in self._plans if plan.peak_bytes <= target_bytes and solver in ("", plan.solver)]

    def solve(self, target_bytes: float, limit_s: float) -> Plan:
        """The cheapest plan that is found in some seconds, with its bound.

        Raises:
            InfeasibleError: none is found.
        """
        deadline, bound = time.monotonic() + limit_s, 0.0
        self.greedy(target_bytes)
        chosen: set[int] = set()
        excluded: list[frozenset[int]] = []
        while not self._is_enough(target_bytes, bound) and (left := deadline - time.monotonic()) > 0:
            solution = self._relaxation.solve(target_bytes, chosen, excluded, left)
            if solution is None:
                break
            bound = max(bound, solution.bound_s)
            if solution.dropped is None:
                break
            self._simulator.adopt(solution.dropped)
            if self._simulator.peak_bytes <= target_bytes:
                self._note("milp", target_bytes)
                break
            new = self._too_large(target_bytes) - chosen
            chosen |= new
            if not new:
                excluded.append(solution.dropped)
            if descend(self._simulator, self.candidates, target_bytes):
                trim(self._simulator, self.candidates, target_bytes)
                self._note("milp", target_bytes)
        return self._best(target_bytes, bound)

    def _is_enough(self, target_bytes: float, bound_s: float) -> bool:
        best = min((plan.extra_time_s for plan in self._below(target_bytes)), default=np.inf)
        return best <= bound_s * (1 + _ENOUGH)

    def _too_large(self, target_bytes: float) -> set[int]:
        """The worst nodes of the present plan, some way apart."""
        over = self._simulator.needed().astype(float) - target_bytes
        over[: self._simulator.flow.first_call] = 0
        too_large: set[int] = set()
        while len(too_large) < _LEARNT and over.max() > 0:
            worst = int(over.argmax())
            too_large.add(worst)
            over[max(0, worst - _APART) : worst + _APART] = 0
        return too_large

    def _best(self, target_bytes: float, bound_s: float) -> Plan:
        best = min(self._below(target_bytes), key=lambda plan: plan.extra_time_s, default=None)
        if best is None:
            least = min(plan.peak_bytes for plan in self._plans)
            raise InfeasibleError(
                f"memory: {target_bytes:,.0f} bytes ({target_bytes / self._base_bytes:.1%} of the step's peak) are not "
                f"reached by recomputation; the least that was found is {least:,} ({least / self._base_bytes:.1%})"
            )
        return best._replace(target_bytes=target_bytes, bound_s=min(bound_s, best.extra_time_s))

    def least_bytes(self, limit_s: float) -> int:
        """The lowest peak that is found: from where local search gets stuck, as far down as the program gets."""
        self.greedy(0)
        while True:
            least = min(plan.peak_bytes for plan in self._plans)
            try:
                self.solve(least * (1 - _SINK), limit_s)
            except InfeasibleError:
                return least

    def frontier(self, targets: Sequence[float], limit_s: float) -> list[Plan]:
        """One plan for each target, from the highest down; each is the best of all that were found.

        Args:
            targets: bytes; all can be reached.
            limit_s: seconds for each.

        Raises:
            InfeasibleError: one is not reached.
        """
        falling = sorted(targets, reverse=True)
        bar = tqdm(falling, desc="frontier", unit="target", leave=False, disable=None)
        bounds = [self.solve(target, limit_s).bound_s for target in bar]
        return [self._best(target, bound) for target, bound in zip(falling, bounds, strict=True)]

"""Which activations to compute again so that a step's peak stays below a target, and what that costs.

Every figure of a plan is that of the step as it would run: the rewritten graph, its liveness and its workspace, so that
chains of recomputation and what they hold meanwhile are counted.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from labtrail.errors import LabtrailError
from projects.profiler.liveness import liveness
from projects.profiler.profile import Profile
from projects.profiler.rewrite import recomputable, rewrite

# How many activations are dropped before the peak is looked at again, as a share of all that can be.
_STRIDE = 0.02


class InfeasibleError(LabtrailError):
    """A target that no plan reaches; says what the least is."""


class Plan(NamedTuple):
    """What is computed again, and what comes of it.

    Attributes:
        dropped: storages of the traced graph.
        peak_bytes: of the rewritten step, workspace included.
        extra_time_s: of the nodes that run twice, as they were measured.
    """

    dropped: frozenset[int]
    peak_bytes: int
    extra_time_s: float


class Planner:
    """Evaluates and looks for plans for one profiled step.

    Attributes:
        able: activations that can be computed again.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.able = recomputable(profile.traced.graph)
        self._activations = {one.storage: one for one in profile.activations}

    def evaluate(self, dropped: Collection[int]) -> Plan:
        """The peak and the extra time of a choice."""
        found, times = rewrite(self._profile.traced, dropped), self._profile.run_times
        need = liveness(found.step.graph, self._profile.granularity).held() + self._profile.workspace[found.origins]
        runs = np.bincount(found.origins[~found.remembers], minlength=len(times)) - 1
        extra = float((times * runs).sum())
        return Plan(frozenset(dropped), int(need[found.step.graph.first_call :].max()), extra)

    def frontier(self) -> Iterator[Plan]:
        """Plans of falling peak: in each round those activations are dropped that free most bytes per second."""
        dropped: set[int] = set()
        best = self.evaluate(dropped)
        yield best
        stride = max(1, round(_STRIDE * len(self.able)))
        while True:
            chosen = self._next(dropped, stride)
            if not chosen:
                return
            dropped.update(chosen)
            plan = self.evaluate(dropped)
            if plan.peak_bytes < best.peak_bytes:
                best = plan
                yield plan

    def _next(self, dropped: set[int], count: int) -> list[int]:
        left = [one for one in self.able if one not in dropped]
        costs = {one: self._cost(one, dropped) for one in left}
        size = {one: self._activations[one].bytes for one in left}
        return sorted(left, key=lambda one: -size[one] / max(costs[one], 1e-9))[:count]

    def _cost(self, storage: int, dropped: Collection[int]) -> float:
        """Seconds to compute an activation from what is kept besides some dropped ones."""
        graph = self._profile.traced.graph
        waiting, seen = [self._activations[storage].created], set()
        while waiting:
            index = waiting.pop()
            if index in seen:
                continue
            seen.add(index)
            for one in graph.nodes[index].inputs:
                node = graph.nodes[one]
                kept = node.is_placeholder or any(
                    own in self._activations and own not in dropped and own != storage for own in node.storages
                )
                if not kept:
                    waiting.append(one)
        return float(self._profile.run_times[list(seen)].sum())

    def trimmed(self, plan: Plan, target_bytes: float) -> Plan:
        """The plan without what it drops in vain, dearest first, still below the target."""
        for one in sorted(plan.dropped, key=lambda storage: -self._cost(storage, plan.dropped)):
            smaller = self.evaluate(plan.dropped - {one})
            if smaller.peak_bytes <= target_bytes and smaller.extra_time_s <= plan.extra_time_s:
                plan = smaller
        return plan


def reach(plans: Sequence[Plan], target_bytes: float) -> Plan:
    """The cheapest of some plans below a target.

    Raises:
        InfeasibleError: none is.
    """
    able = [one for one in plans if one.peak_bytes <= target_bytes]
    if not able:
        least = min(one.peak_bytes for one in plans)
        raise InfeasibleError(
            f"memory: {target_bytes:,.0f} bytes cannot be reached by recomputation; the least is {least:,}"
        )
    return min(able, key=lambda one: one.extra_time_s)

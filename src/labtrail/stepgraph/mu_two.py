"""mu-TWO's greedy choice between swapping and recomputing (Purandare et al., MLSys 2023, Algorithms B to G).

In each round the activation that waits longest is offered for swapping, and the one that frees most bytes per second
for recomputation; the cheaper offer is taken, the others' costs are brought up to date, until the peak is low enough.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


@dataclass(frozen=True)
class Candidate:
    """An activation that may be swapped or computed again.

    Attributes:
        id: its storage.
        bytes: its size.
        recompute_s: seconds to compute it once, from its sources.
        sources: activations that it is computed from.
        swap_s: seconds of a transfer one way; infinite where nothing is swapped.
        idle_from_s: when its last use in the forward pass ends.
        needed_at_s: when its first use in the backward pass begins.
        total_s: seconds that computing it again adds to the step, repetitions for others included.
    """

    id: int
    bytes: int
    recompute_s: float
    sources: frozenset[int]
    swap_s: float
    idle_from_s: float
    needed_at_s: float
    total_s: float = 0.0

    @property
    def ratio(self) -> float:
        """Bytes freed per second of recomputation."""
        return self.bytes / self.total_s if self.total_s > 0 else float("inf")


class Choice(NamedTuple):
    """What is decided on.

    Attributes:
        swapped, recomputed: ids of activations, in the order of decision.
    """

    swapped: tuple[int, ...]
    recomputed: tuple[int, ...]


class _Interval(NamedTuple):
    """Seconds during which the link to the host is taken."""

    start: float
    end: float


def choose(candidates: Iterable[Candidate], is_enough: Callable[[Choice], bool]) -> Choice:
    """Decides on activations until the peak is low enough, or none is left (Algorithm B).

    Args:
        candidates: each with its own cost; ``total_s`` is set here.
        is_enough: simulates the peak under a choice and compares it with the limit (Algorithm G).
    """
    left = {candidate.id: replace(candidate, total_s=candidate.recompute_s) for candidate in candidates}
    swapped: list[int] = []
    recomputed: dict[int, Candidate] = {}
    taken: list[_Interval] = []
    while left and not is_enough(Choice(tuple(swapped), tuple(recomputed))):
        waits = max(left.values(), key=lambda candidate: candidate.needed_at_s - candidate.idle_from_s)
        frees = max(left.values(), key=lambda candidate: candidate.ratio)
        transfer, overhead = prefetch(waits, taken)
        if overhead < frees.total_s:
            swapped.append(waits.id)
            taken.append(transfer)
            del left[waits.id]
            continue
        del left[frees.id]
        times = _substitute(recomputed, frees)
        recomputed[frees.id] = frees
        _update(left, frees, recomputed, times)
    return Choice(tuple(swapped), tuple(recomputed))


def prefetch(candidate: Candidate, taken: Sequence[_Interval]) -> tuple[_Interval, float]:
    """When an activation comes back, and the seconds that this delays the step (Algorithm C).

    The transfer ends as late as the link allows; what it would have to begin before the activation has left the device
    is not hidden.
    """
    end = candidate.needed_at_s
    for other in sorted(taken, key=lambda interval: -interval.end):
        if other.end > end - candidate.swap_s and other.start < end:
            end = other.start
    start = end - candidate.swap_s
    return _Interval(start, end), max(0.0, candidate.idle_from_s + candidate.swap_s - start)


def _substitute(recomputed: dict[int, Candidate], chosen: Candidate) -> int:
    """Earlier choices that start from this one now start from its sources (Algorithm E).

    Returns:
        How often the chosen one will be computed.
    """
    times = 1
    for key, candidate in recomputed.items():
        if chosen.id in candidate.sources:
            sources = candidate.sources - {chosen.id} | chosen.sources
            recomputed[key] = replace(
                candidate, sources=sources, recompute_s=candidate.recompute_s + chosen.recompute_s
            )
            times += 1
    return times


def _update(left: dict[int, Candidate], chosen: Candidate, recomputed: dict[int, Candidate], times: int) -> None:
    """What is left starts from the chosen one's sources, or has to be computed for it as well (Algorithm F)."""
    for key, candidate in left.items():
        if chosen.id in candidate.sources:
            sources = candidate.sources - {chosen.id} | chosen.sources
            seconds = candidate.recompute_s + chosen.recompute_s
            needed = sum(key in other.sources for other in recomputed.values())
            left[key] = replace(candidate, sources=sources, recompute_s=seconds, total_s=seconds * (1 + needed))
        elif key in chosen.sources:
            left[key] = replace(candidate, total_s=candidate.recompute_s * (1 + times))

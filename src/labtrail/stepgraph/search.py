"""Local search for a plan below a target: one decision at a time, by what it frees for what it costs."""

import heapq
from collections.abc import Sequence

import numpy as np

from labtrail.stepgraph.simulate import Simulator

# Seconds below which a decision counts as free; ratios need a denominator.
_FREE_S = 1e-9


def descend(simulator: Simulator, candidates: Sequence[int], target_bytes: float) -> bool:
    """Changes the simulator's plan until its peak is below a target; whether that was reached.

    What is left above the target, squared and summed over the nodes, falls with every decision; of all decisions that
    one comes first that lowers it most per second.
    """
    while _excess(simulator, target_bytes) > 0:
        if not _descend_once(simulator, candidates, target_bytes):
            return False
    return True


def _descend_once(simulator: Simulator, candidates: Sequence[int], target_bytes: float) -> bool:
    """Decides until no candidate helps; a ratio is only measured again when it would come first."""
    left, seconds = _excess(simulator, target_bytes), simulator.extra_time_s
    decided, measured = 0, dict.fromkeys(candidates, -1)
    queue = [(-np.inf, candidate) for candidate in candidates]
    heapq.heapify(queue)
    while left > 0:
        ratio, cheapest = heapq.heappop(queue)
        if measured[cheapest] == decided:
            if ratio >= 0:
                break
            simulator.flip(cheapest)
            left, seconds = _excess(simulator, target_bytes), simulator.extra_time_s
            decided += 1
            heapq.heappush(queue, (0.0, cheapest))
            continue
        simulator.flip(cheapest)
        freed = left - _excess(simulator, target_bytes)
        cost = max(simulator.extra_time_s - seconds, _FREE_S)
        simulator.flip(cheapest)
        measured[cheapest] = decided
        heapq.heappush(queue, (-freed / cost if freed > 0 else 0.0, cheapest))
    return decided > 0


def _excess(simulator: Simulator, target_bytes: float) -> float:
    over = simulator.needed()[simulator.flow.first_call :] - target_bytes
    over = over[over > 0]
    return float(over @ over)


def trim(simulator: Simulator, candidates: Sequence[int], target_bytes: float) -> None:
    """Takes single decisions back, or makes them, as long as that saves time and the peak stays below the target."""
    better = True
    while better:
        better = False
        for candidate in candidates:
            before = simulator.extra_time_s
            simulator.flip(candidate)
            if simulator.extra_time_s < before and simulator.peak_bytes <= target_bytes:
                better = True
            else:
                simulator.flip(candidate)

"""A proof that no measurement is shared: on the rows that windows really gather, not on what was planned."""

from collections.abc import Mapping

import numpy as np

from projects.pamap2.splits import NAMES


def leaks(bouts: np.ndarray, windows: Mapping[int, np.ndarray], window: int) -> list[str]:
    """What is wrong with the windows of several places; empty if nothing is.

    A canary channel with a number of its own in every row is gathered as the sensors are. No number may turn up in
    two places, two places of one bout must be a window apart, and no window may hold two bouts.

    Args:
        bouts: number of each row's bout, shape (N,).
        windows: place -> first rows of its windows.
        window: rows of a window.
    """
    canary = np.arange(len(bouts))
    problems: list[str] = []
    seen: dict[int, np.ndarray] = {}
    for place, starts in windows.items():
        rows = canary[starts[:, None] + np.arange(window)]
        crossing = np.flatnonzero(bouts[rows[:, 0]] != bouts[rows[:, -1]])
        if crossing.size:
            first = int(starts[crossing[0]])
            problems.append(f"{NAMES[place]}: {crossing.size} windows cross bouts, the first at row {first}")
        seen[place] = np.unique(rows)
    names = list(seen)
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            problems += _between(bouts, seen[name], seen[other], window, f"{NAMES[name]} and {NAMES[other]}")
    return problems


def _between(bouts: np.ndarray, first: np.ndarray, other: np.ndarray, window: int, what: str) -> list[str]:
    shared = np.intersect1d(first, other)
    if shared.size:
        return [f"{what} share {shared.size} rows, the first is {shared[0]}"]
    if not len(first) or not len(other):
        return []
    problems = []
    for near in (np.searchsorted(other, first) - 1, np.searchsorted(other, first)):
        inside = (near >= 0) & (near < len(other))
        mine, theirs = first[inside], other[near[inside]]
        close = (np.abs(mine - theirs) <= window) & (bouts[mine] == bouts[theirs])
        if close.any():
            least = int(np.abs(mine - theirs)[close].min()) - 1
            problems.append(f"{what} come within {least} rows of each other inside a bout; a window has {window}")
    return problems[:1]

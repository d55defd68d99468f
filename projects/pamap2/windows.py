"""Windows of consecutive rows: within one bout and one place, and away from every other place."""

import numpy as np

from projects.pamap2.schema import RATE_HZ
from projects.pamap2.splits import TRAIN


def usable_rows(bouts: np.ndarray, places: np.ndarray, guard: int, trim_s: float) -> np.ndarray:
    """Rows that windows may use, shape (N,), bool.

    Args:
        bouts: number of each row's bout, shape (N,), rising.
        places: split of each row, shape (N,).
        guard: training rows this close to another place of the same bout are left out.
        trim_s: seconds left out at either end of every bout, where labels are least certain.
    """
    usable = np.ones(len(bouts), dtype=bool)
    change = np.flatnonzero((np.diff(places) != 0) & (np.diff(bouts) == 0)) + 1
    for row in change:
        # A guard never reaches into another bout: its rows are elsewhere in time.
        low, high = max(0, row - guard), min(len(bouts), row + guard)
        near = slice(low, high)
        usable[near] &= (places[near] != TRAIN) | (bouts[near] != bouts[row])
    trim = round(trim_s * RATE_HZ)
    if trim:
        starts = np.flatnonzero(np.diff(bouts, prepend=-1) != 0)
        lengths = np.diff(np.append(starts, len(bouts)))
        place = np.arange(len(bouts)) - np.repeat(starts, lengths)
        usable &= (place >= trim) & (place < np.repeat(lengths, lengths) - trim)
    return usable


def window_starts(
    bouts: np.ndarray, places: np.ndarray, usable: np.ndarray, place: int, window: int, step: int
) -> np.ndarray:
    """First row of every window of one place, rising, int64; each window's rows are usable and of one bout.

    Args:
        bouts, places, usable: per row.
        place: of which split.
        window: rows of a window.
        step: rows between the starts of two windows of one stretch.
    """
    wanted = usable & (places == place)
    edges = np.flatnonzero(np.diff(wanted.astype(np.int8), prepend=0) | np.diff(bouts, prepend=-1))
    stops = np.append(edges[1:], len(bouts))
    whole = wanted[edges] & (stops - edges >= window)
    starts, counts = edges[whole], (stops - edges - window)[whole] // step + 1
    if not len(starts):
        return np.zeros(0, dtype=np.int64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + within * step

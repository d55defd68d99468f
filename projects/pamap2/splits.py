"""Which rows train, validate and test: every row has one place, and windows keep the places apart.

Rows are apportioned by largest remainder, so the shares are exact. In the contiguous protocol each (subject,
activity) gives one interior block to validation and one to test, placed by a hash, never always the tail: the ends
of bouts carry label noise. Windows then leave a guard around each block (``windows.py``), which is what prevents
leakage; the manifests keep every row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import labtrail as lt

TRAIN, VALIDATION, TEST = 0, 1, 2
NAMES = ("train", "validation", "test")
# Placements that are tried for a shard until both blocks hold a window.
_ATTEMPTS = 16


@dataclass(frozen=True)
class Shard:
    """The rows of one subject doing one activity.

    Attributes:
        subject, activity: whose and what.
        rows: indices into the data set, rising.
        bouts: number of the bout of each of these rows.
    """

    subject: int
    activity: int
    rows: np.ndarray
    bouts: np.ndarray


def shards_of(subjects: np.ndarray, activities: np.ndarray, bouts: np.ndarray) -> list[Shard]:
    """All shards, by subject and then activity."""
    keys = subjects.astype(np.int64) * 1000 + activities
    order = np.argsort(keys, kind="stable")
    shard_keys, first = np.unique(keys[order], return_index=True)
    parts = np.split(order, first[1:])
    return [
        Shard(int(key) // 1000, int(key) % 1000, rows, bouts[rows]) for key, rows in zip(shard_keys, parts, strict=True)
    ]


def largest_remainder(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``total``, in proportion to ``shares`` (Hamilton's method; ties to the first)."""
    weights = np.asarray(shares, dtype=float)
    exact = weights / weights.sum() * total
    counts = np.floor(exact + 1e-9).astype(int)
    missing = total - int(counts.sum())
    first = np.argsort(-(exact - counts), kind="stable")[:missing]
    counts[first] += 1
    return counts.tolist()


def contiguous(shards: Sequence[Shard], shares: Sequence[float], window: int, guard: int) -> np.ndarray:
    """A place for each row: interior blocks of validation and test in every shard that is large enough.

    Args:
        shards: all rows.
        shares: of train, validation and test; they sum to 1.
        window: rows of a window; a block is useful only if it holds one within a bout.
        guard: rows that windows keep between two places.

    Returns:
        Shape (N,), int8: ``TRAIN``, ``VALIDATION`` or ``TEST``. Shares of all rows are exact by largest remainder,
        unless no shard is large enough to give up rows.
    """
    total = sum(len(shard.rows) for shard in shards)
    places = np.zeros(total, dtype=np.int8)
    able = [shard for shard in shards if _cut(shard, *_wanted(len(shard.rows), shares), window, guard) is not None]
    while able:
        sizes = [len(shard.rows) for shard in able]
        _, validation, test = largest_remainder(total, shares)
        sizes_of_shards = zip(able, largest_remainder(validation, sizes), largest_remainder(test, sizes), strict=True)
        cuts = [
            _cut(shard, own_validation, own_test, window, guard) for shard, own_validation, own_test in sizes_of_shards
        ]
        unable = [shard for shard, cut in zip(able, cuts, strict=True) if cut is None]
        if not unable:
            for shard, cut in zip(able, cuts, strict=True):
                for place, (start, stop) in (cut or {}).items():
                    places[shard.rows[start:stop]] = place
            return places
        # What the tiny shards cannot give, the others do; the smallest leaves first.
        smallest = min(unable, key=lambda shard: len(shard.rows))
        able = [shard for shard in able if shard is not smallest]
    return places


def _wanted(rows: int, shares: Sequence[float]) -> tuple[int, int]:
    _, validation, test = largest_remainder(rows, shares)
    return validation, test


def _cut(shard: Shard, validation: int, test: int, window: int, guard: int) -> dict[int, tuple[int, int]] | None:
    """Where the two blocks lie in a shard, or None if it cannot give them and keep windows of its own."""
    train = len(shard.rows) - validation - test
    # Train keeps a part at either end and one between the blocks, each long enough for a window and its guards.
    least = window + 2 * guard
    if min(validation, test) < window or train < 3 * least:
        return None
    for attempt in range(_ATTEMPTS):
        first, second, third = _draws(shard, attempt)
        free = train - 3 * least
        before = least + int(first * (free + 1))
        between = least + int(second * (free - (before - least) + 1))
        sizes = ((VALIDATION, validation), (TEST, test)) if third < 0.5 else ((TEST, test), (VALIDATION, validation))
        start = before
        cut = {}
        for place, size in sizes:
            cut[place] = (start, start + size)
            start += size + between
        if all(_holds_window(shard.bouts[slice(*ends)], window) for ends in cut.values()):
            return cut
    return None


def _draws(shard: Shard, attempt: int) -> tuple[float, float, float]:
    """Three numbers in [0, 1) that depend on subject, activity and attempt only."""
    digest = hashlib.sha256(f"{shard.subject}/{shard.activity}/{attempt}".encode()).digest()
    first, second, third = (int.from_bytes(digest[i : i + 6], "big") / 2**48 for i in (0, 6, 12))
    return first, second, third


def _holds_window(bouts: np.ndarray, window: int) -> bool:
    return len(bouts) >= window and bool((bouts[window - 1 :] == bouts[: len(bouts) - window + 1]).any())


def whole_shards(shards: Sequence[Shard], shares: Sequence[float], seed: int) -> np.ndarray:
    """A place for each row, whole shards at a time: by activity, the shares as near as whole shards allow."""
    places = np.zeros(sum(len(shard.rows) for shard in shards), dtype=np.int8)
    generator = np.random.default_rng(seed)
    for activity in sorted({shard.activity for shard in shards}):
        activity_shards = [shard for shard in shards if shard.activity == activity]
        order = generator.permutation(len(activity_shards))
        counts = largest_remainder(len(activity_shards), shares)
        if len(activity_shards) >= 3:
            counts = [
                len(activity_shards) - max(1, counts[1]) - max(1, counts[2]),
                max(1, counts[1]),
                max(1, counts[2]),
            ]
        for place, chosen in enumerate(np.split(order, np.cumsum(counts)[:-1])):
            for index in chosen:
                places[activity_shards[index].rows] = place
    return places


def leave_subjects_out(
    shards: Sequence[Shard], test_subjects: Sequence[int], shares: Sequence[float], window: int, guard: int
) -> np.ndarray:
    """A place for each row: whole subjects test; the others train, with contiguous blocks for validation.

    Raises:
        DataError: a subject that the data do not have, or none left to train on.
    """
    known = sorted({shard.subject for shard in shards})
    missing = sorted(set(test_subjects) - set(known))
    if missing:
        raise lt.DataError(f"split.test_subjects: subject {missing[0]} is not in the data, which have {known}")
    rest = [shard for shard in shards if shard.subject not in test_subjects]
    if not rest:
        raise lt.DataError(f"split.test_subjects: {sorted(test_subjects)} leaves no subject to train on")
    places = np.full(sum(len(shard.rows) for shard in shards), TEST, dtype=np.int8)
    kept = np.sort(np.concatenate([shard.rows for shard in rest]))
    local = [Shard(shard.subject, shard.activity, np.searchsorted(kept, shard.rows), shard.bouts) for shard in rest]
    train, validation = shares[0] + shares[2], shares[1]
    places[kept] = _one_block(local, (train, validation), window, guard)
    return places


def _one_block(shards: Sequence[Shard], shares: Sequence[float], window: int, guard: int) -> np.ndarray:
    """Contiguous validation blocks only: the test block of ``contiguous`` is given back to train."""
    places = contiguous(shards, (shares[0] - shares[1], shares[1], shares[1]), window, guard)
    places[places == TEST] = TRAIN
    return places

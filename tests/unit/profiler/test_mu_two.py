"""mu-TWO's greedy choice on cases that can be followed by hand."""

import math

import pytest

from labtrail.stepgraph.mu_two import Candidate, Choice, choose, prefetch


def candidate(key: int, size: int, seconds: float, sources: set[int] | None = None, **more: float) -> Candidate:
    given = {"swap_s": math.inf, "idle_from_s": 0.0, "needed_at_s": 10.0} | more
    return Candidate(key, size, seconds, frozenset(sources or ()), **given)


def freed(limit: int, sizes: dict[int, int]):
    """Enough once so many bytes are gone."""
    return lambda choice: sum(sizes[one] for one in (*choice.swapped, *choice.recomputed)) >= limit


def test_most_bytes_per_second_come_first() -> None:
    sizes = {1: 100, 2: 100, 3: 40}
    found = choose([candidate(1, 100, 2.0), candidate(2, 100, 1.0), candidate(3, 40, 1.0)], freed(150, sizes))
    assert found == Choice((), (2, 1))


def test_what_starts_from_a_dropped_activation_costs_both() -> None:
    # Alone 2 frees 90 a second. Once 1 is gone, 2 takes 1 + 1 seconds: 45 a second, and 3 with its 60 comes first.
    sizes = {1: 100, 2: 90, 3: 60}
    order = [candidate(1, 100, 1.0), candidate(2, 90, 1.0, {1}), candidate(3, 60, 1.0)]
    assert choose(order, freed(250, sizes)).recomputed == (1, 3, 2)


def test_a_source_of_what_was_dropped_is_computed_for_it_again() -> None:
    # 2 is dropped first; dropping its source 1 then means computing 1 twice: 80 / 2 a second, after 3 with its 50.
    sizes = {1: 80, 2: 100, 3: 50}
    order = [candidate(1, 80, 1.0), candidate(2, 100, 1.0, {1}), candidate(3, 50, 1.0)]
    assert choose(order, freed(230, sizes)).recomputed == (2, 3, 1)


def test_a_swap_that_hides_is_taken_before_recomputation() -> None:
    sizes = {1: 100, 2: 100}
    waits = candidate(1, 100, 1.0, swap_s=2.0, idle_from_s=1.0, needed_at_s=9.0)
    soon = candidate(2, 100, 1.0, swap_s=2.0, idle_from_s=4.0, needed_at_s=5.0)
    # 1 leaves until 3 and comes back from 7 to 9. 2 would be late by 4 + 2 - 3 = 3 seconds: it is computed again.
    assert choose([waits, soon], freed(200, sizes)) == Choice((1,), (2,))


def test_transfers_do_not_overlap() -> None:
    first, late = prefetch(candidate(1, 1, 1.0, swap_s=2.0, idle_from_s=0.0, needed_at_s=9.0), [])
    assert (first.start, first.end, late) == (7.0, 9.0, 0.0)
    second, late = prefetch(candidate(2, 1, 1.0, swap_s=3.0, idle_from_s=0.0, needed_at_s=8.0), [first])
    assert (second.start, second.end, late) == (4.0, 7.0, 0.0)
    third, late = prefetch(candidate(3, 1, 1.0, swap_s=3.0, idle_from_s=0.0, needed_at_s=8.5), [first, second])
    assert (third.start, third.end, late) == (1.0, 4.0, 2.0)


def test_all_are_taken_where_it_is_never_enough() -> None:
    found = choose([candidate(1, 10, 1.0), candidate(2, 20, 1.0)], lambda _: False)
    assert set(found.recomputed) == {1, 2}
    assert choose([], lambda _: False) == Choice((), ())


def test_nothing_is_taken_where_it_fits() -> None:
    assert choose([candidate(1, 10, 1.0)], lambda _: True) == Choice((), ())


def test_a_free_recomputation_comes_before_all() -> None:
    assert candidate(1, 10, 0.0).ratio == pytest.approx(math.inf)

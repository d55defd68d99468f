"""Exact shares, no shared row, and distance between splits, on hundreds of generated data sets."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labtrail.errors import DataError
from projects.pamap2.config import SplitConfig
from projects.pamap2.dataset import Dataset, bout_of_rows
from projects.pamap2.folds import make_folds
from projects.pamap2.leakage import leaks
from projects.pamap2.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    Shard,
    contiguous,
    largest_remainder,
    leave_subjects_out,
    shards_of,
    whole_shards,
)
from projects.pamap2.windows import usable_rows, window_starts

SHARES = (0.70, 0.15, 0.15)
WINDOW = 16
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def data_sets(draw: st.DrawFn) -> Rows:
    """Bouts of several subjects and activities: seconds, subjects and activities of each row."""
    seconds, subjects, activities = [], [], []
    for subject in range(101, 101 + draw(st.integers(1, 4))):
        clock = 0.0
        for _ in range(draw(st.integers(1, 6))):
            rows = draw(st.integers(1, 500))
            seconds.append(clock + np.arange(rows) / 100)
            activities.append(np.full(rows, draw(st.sampled_from([1, 4, 12]))))
            subjects.append(np.full(rows, subject))
            clock = seconds[-1][-1] + draw(st.sampled_from([0.01, 0.1, 30.0]))
    return np.concatenate(seconds), np.concatenate(subjects), np.concatenate(activities)


@settings(max_examples=500)
@given(data_sets())
def test_contiguous_split_is_exact_and_keeps_its_distance(rows: Rows) -> None:
    seconds, subjects, activities = rows
    bouts = bout_of_rows(seconds, subjects, activities)
    shards = shards_of(subjects, activities, bouts)
    places = contiguous(shards, SHARES, WINDOW, WINDOW)
    counts = np.bincount(places, minlength=3).tolist()
    assert counts in (largest_remainder(len(seconds), SHARES), [len(seconds), 0, 0])
    usable = usable_rows(bouts, places, WINDOW, 0.0)
    windows = {place: window_starts(bouts, places, usable, place, WINDOW, 5) for place in (TRAIN, VALIDATION, TEST)}
    assert leaks(bouts, windows, WINDOW) == []
    for place, starts in windows.items():
        every = starts[:, None] + np.arange(WINDOW)
        assert (places[every] == place).all()
        assert (bouts[every] == bouts[starts][:, None]).all()
    if counts[1]:
        # A class that gave rows to one split gave windows to all three.
        given = [set(activities[windows[place]]) for place in (VALIDATION, TEST)]
        assert given[0] == given[1]
        assert given[0] <= set(activities[windows[TRAIN]])


@settings(max_examples=100)
@given(data_sets())
def test_split_does_not_depend_on_the_order_of_shards(rows: Rows) -> None:
    seconds, subjects, activities = rows
    shards = shards_of(subjects, activities, bout_of_rows(seconds, subjects, activities))
    places = contiguous(shards, SHARES, WINDOW, WINDOW)
    np.testing.assert_array_equal(places, contiguous(shards, SHARES, WINDOW, WINDOW))
    assert sum(len(shard.rows) for shard in shards) == len(seconds)
    assert len(np.unique(np.concatenate([shard.rows for shard in shards]))) == len(seconds)


def long_data() -> Rows:
    subjects = np.repeat([101, 102, 103], 4000)
    activities = np.tile(np.repeat([1, 4], 2000), 3)
    seconds = np.tile(np.arange(4000) / 100, 3)
    return seconds, subjects, activities


def test_without_guards_the_proof_fails() -> None:
    seconds, subjects, activities = long_data()
    bouts = bout_of_rows(seconds, subjects, activities)
    places = contiguous(shards_of(subjects, activities, bouts), SHARES, 100, 100)
    found = {}
    for guard in (100, 0):
        usable = usable_rows(bouts, places, guard, 0.0)
        windows = {place: window_starts(bouts, places, usable, place, 100, 10) for place in (TRAIN, VALIDATION, TEST)}
        found[guard] = leaks(bouts, windows, 100)
    assert found[100] == []
    assert any("come within" in one for one in found[0])


def test_proof_finds_shared_rows_and_windows_across_bouts() -> None:
    bouts = np.repeat([0, 1], 50)
    shared = leaks(bouts, {TRAIN: np.array([0]), TEST: np.array([5])}, 10)
    assert shared == ["train and test share 5 rows, the first is 5"]
    crossing = leaks(bouts, {TRAIN: np.array([45])}, 10)
    assert crossing == ["train: 1 windows cross bouts, the first at row 45"]


def test_blocks_are_interior_and_placed_by_subject_and_activity() -> None:
    seconds, subjects, activities = long_data()
    bouts = bout_of_rows(seconds, subjects, activities)
    shards = shards_of(subjects, activities, bouts)
    places = contiguous(shards, SHARES, 100, 100)
    starts = []
    for shard in shards:
        own = places[shard.rows]
        assert own[0] == own[-1] == TRAIN
        starts.append(int(np.flatnonzero(own != TRAIN)[0]))
    assert len(set(starts)) > 3


@given(st.integers(0, 10_000_000), st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_largest_remainder_is_exact_and_fair(total: int, shares: list[float]) -> None:
    counts = largest_remainder(total, shares)
    assert sum(counts) == total
    exact = np.array(shares) / sum(shares) * total
    assert np.abs(np.array(counts) - exact).max() < 1 + 1e-6


def test_full_data_would_be_divided_as_published() -> None:
    assert largest_remainder(1_942_872, SHARES) == [1_360_010, 291_431, 291_431]


def test_left_out_subject_is_nowhere_else() -> None:
    seconds, subjects, activities = long_data()
    bouts = bout_of_rows(seconds, subjects, activities)
    shards = shards_of(subjects, activities, bouts)
    places = leave_subjects_out(shards, [102], SHARES, 100, 100)
    assert set(places[subjects == 102]) == {TEST}
    assert set(places[subjects != 102]) == {TRAIN, VALIDATION}
    assert (places == VALIDATION).sum() == pytest.approx(0.15 * (subjects != 102).sum(), abs=1)
    with pytest.raises(DataError, match=r"subject 106 is not in the data, which have \[101, 102, 103\]"):
        leave_subjects_out(shards, [106], SHARES, 100, 100)


def test_whole_shards_stay_whole() -> None:
    shards = [Shard(100 + i, 1, np.arange(10 * i, 10 * i + 10), np.zeros(10, int)) for i in range(8)]
    places = whole_shards(shards, SHARES, seed=0)
    assert all(len(set(places[shard.rows])) == 1 for shard in shards)
    assert set(places) == {TRAIN, VALIDATION, TEST}


def test_trimming_takes_both_ends_of_each_bout() -> None:
    bouts = np.repeat([0, 1], [500, 300])
    usable = usable_rows(bouts, np.zeros(800, np.int8), 16, trim_s=1.0)
    assert np.flatnonzero(usable).tolist() == [*range(100, 400), *range(600, 700)]


def test_bouts_end_where_time_jumps() -> None:
    seconds = np.array([0.0, 0.01, 0.11, 0.22, 0.23, 0.24])
    subjects, activities = np.full(6, 101), np.array([1, 1, 1, 1, 4, 4])
    assert bout_of_rows(seconds, subjects, activities).tolist() == [0, 0, 0, 1, 2, 2]


def test_windows_of_an_activity_that_training_never_saw_are_counted_apart(tmp_path: Path) -> None:
    seconds, subjects, activities = long_data()
    activities[(subjects == 102) & (activities == 4)] = 24
    arrays = (np.zeros((len(seconds), 52), np.float32), seconds, subjects, activities)
    dataset = Dataset(*arrays, digest="", folder=tmp_path, facts={})
    fold, *_ = make_folds(dataset, SplitConfig(protocol="loso", test_subjects=(102,), window=100, step=100), seed=0)
    assert set(activities[fold.test]) == {1}
    assert (len(fold.test), fold.unanswerable) == (20, 20)

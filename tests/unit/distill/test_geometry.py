"""Measures of features against shapes whose answer is known."""

import numpy as np
import pytest
from scipy.stats import ttest_rel

from labtrail.statistics import detectable, holm, paired_t, t_interval
from projects.distill.geometry import (
    error_overlap,
    neighbour_accuracy,
    participation_ratio,
    probe_accuracy,
    procrustes_distance,
    two_nn,
)


def cloud(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension))


@pytest.mark.parametrize("dimension", [2, 5, 8])
def test_dimension_is_that_of_the_cloud_also_inside_a_larger_space(dimension: int) -> None:
    wide = cloud(2000, dimension) @ np.linalg.qr(cloud(12, 12, 1))[0][:dimension]
    assert participation_ratio(wide) == pytest.approx(dimension, rel=0.03)
    assert two_nn(wide) == pytest.approx(dimension, rel=0.1)


def test_duplicates_have_no_dimension_of_their_own() -> None:
    assert np.isnan(two_nn(np.ones((10, 3))))
    twice = np.repeat(cloud(500, 3), [2] + [1] * 499, axis=0)
    assert np.isfinite(two_nn(twice))


def test_clusters_are_found_by_neighbours_and_by_a_linear_probe() -> None:
    labels = np.repeat(np.arange(4), 30)
    apart = cloud(120, 6) * 0.1 + np.eye(4, 6)[labels] * 5
    assert neighbour_accuracy(apart, labels) == probe_accuracy(apart, labels) == 1.0
    assert neighbour_accuracy(cloud(120, 6), labels) < 0.5
    assert probe_accuracy(cloud(120, 6), labels) < 0.5


def test_procrustes_sees_through_rotation_shift_and_scale() -> None:
    one = cloud(50, 6)
    turned = 3 * one @ np.linalg.qr(cloud(6, 6, 1))[0] + 7
    assert procrustes_distance(one, turned) == pytest.approx(0, abs=1e-6)
    assert procrustes_distance(one, cloud(50, 6, 2)) > 0.5
    assert procrustes_distance(one, np.hstack([one, np.zeros((50, 3))])) == pytest.approx(0, abs=1e-6)


def test_errors_overlap_more_than_by_chance_or_not() -> None:
    wrong = np.array([True] * 20 + [False] * 80)
    assert error_overlap(wrong, wrong) == 1.0
    shuffled = np.random.default_rng(0).permutation(wrong)
    assert abs(error_overlap(wrong, shuffled)) < 0.3
    assert error_overlap(wrong, ~wrong) < 0


def test_paired_t_is_scipys() -> None:
    one, other = cloud(5, 1)[:, 0], cloud(5, 1, 1)[:, 0]
    assert paired_t(one - other) == pytest.approx(ttest_rel(one, other).pvalue)
    assert np.isnan(paired_t(np.array([1.0])))
    assert np.isnan(paired_t(np.full(3, 0.1)))
    interval = t_interval(one - other)
    # The interval holds 0 exactly where the test does not refuse it.
    assert (interval.low < 0 < interval.high) == (paired_t(one - other) > 0.05)


def test_holm_steps_down_and_leaves_the_unknown_out() -> None:
    found = holm(np.array([0.01, 0.04, np.nan, 0.03]))
    assert found[[0, 1, 3]].tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(found[2])


def test_a_detectable_difference_is_detected_as_often_as_it_says() -> None:
    count, spread = 6, 0.5
    difference = detectable(spread, count)
    draws = np.random.default_rng(0).normal(difference, spread, (4000, count))
    found = np.mean([paired_t(row) < 0.05 for row in draws])
    assert found == pytest.approx(0.8, abs=0.05)

"""Intervals, divergences, calibration, CKA and RSA against closed forms, brute force and scipy; nulls are null."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import bootstrap, kstest, ortho_group, spearmanr
from scipy.stats import entropy as scipy_entropy

from labtrail.statistics import (
    bootstrap_mean,
    centred_gram,
    cka_jackknife,
    cka_test,
    debiased_cka,
    dissimilarities,
    entropy,
    expected_calibration_error,
    jensen_shannon,
    permutation_p,
    rdm_correlation,
    rsa_test,
)


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_bootstrap_agrees_with_scipy() -> None:
    values = normals(40)
    own = bootstrap_mean(values, 9999, seed=1)
    other = bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(2))
    assert own.value == pytest.approx(values.mean())
    assert own.low == pytest.approx(other.confidence_interval.low, abs=0.02)
    assert own.high == pytest.approx(other.confidence_interval.high, abs=0.02)


def test_bootstrap_covers_the_truth_and_keeps_shapes() -> None:
    many = normals(60, 400, 2)
    found = bootstrap_mean(many, 1000)
    assert found.value.shape == found.low.shape == (400, 2)
    covered = ((found.low <= 0) & (found.high >= 0)).mean()
    assert covered == pytest.approx(0.95, abs=0.025)
    np.testing.assert_allclose(found.value, many.mean(axis=0))


def test_bootstrap_of_equal_values_has_no_width() -> None:
    found = bootstrap_mean(np.full((7, 3), 2.5), 200)
    np.testing.assert_allclose([found.low, found.high], 2.5)


@given(st.integers(2, 30), st.integers(0, 1000))
def test_entropy_and_divergence_agree_with_scipy(size: int, seed: int) -> None:
    one, other = np.random.default_rng(seed).dirichlet(np.full(size, 0.2), 2)
    assert entropy(one) == pytest.approx(scipy_entropy(one))
    assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, 2) ** 2, abs=1e-9)
    assert jensen_shannon(one, one) == pytest.approx(0.0, abs=1e-12)


def test_divergence_of_disjoint_weights_is_one_bit() -> None:
    assert jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]])
    labels = np.array([0, 1, 1, 1])
    # Two bins: 0.55 .. 0.9 all lie in the upper one; confidence sums to 2.95, three of four are right.
    assert expected_calibration_error(probabilities, labels, bins=2) == pytest.approx(abs(2.95 - 3) / 4)
    assert expected_calibration_error(np.eye(3), np.arange(3)) == 0.0


def brute_force_hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, as a sum over tuples of distinct items."""
    k, m, n = one @ one.T, other @ other.T, len(one)
    pairs = sum(k[i, j] * m[i, j] for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    quads = sum(k[i, j] * m[q, r] for i, j, q, r in itertools.permutations(range(n), 4))
    triples = sum(k[i, j] * m[i, q] for i, j, q in itertools.permutations(range(n), 3))
    return pairs + quads / math.perm(n, 4) - 2 * triples / math.perm(n, 3)


def test_cka_is_the_ratio_of_unbiased_estimates() -> None:
    one, other = normals(6, 3), normals(6, 4, seed=1) + normals(6, 4, seed=2)[:, :1]
    expected = brute_force_hsic(one, other) / math.sqrt(brute_force_hsic(one, one) * brute_force_hsic(other, other))
    assert debiased_cka(one, other) == pytest.approx(expected)


def test_cka_does_not_see_rotation_shift_and_scale() -> None:
    one = normals(30, 5)
    rotation = ortho_group.rvs(5, random_state=np.random.default_rng(0))
    assert debiased_cka(one, 3 * one @ rotation + 7) == pytest.approx(1.0)


def test_cka_of_independent_features_is_unbiased_in_high_dimensions() -> None:
    found = [debiased_cka(normals(20, 200, seed=2 * i), normals(20, 300, seed=2 * i + 1)) for i in range(60)]
    assert np.mean(found) == pytest.approx(0.0, abs=0.02)


def test_cka_needs_four_items() -> None:
    with pytest.raises(ValueError, match="3 rows are too few"):
        centred_gram(normals(3, 5))


def test_cka_jackknife_holds_the_value_and_narrows_with_items() -> None:
    def interval(items: int):
        one = normals(items, 10)
        return cka_jackknife(one, one + normals(items, 10, seed=1))

    few, many = interval(30), interval(300)
    for found in (few, many):
        assert found.low < found.value < found.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_p_values_are_uniform_without_a_relation() -> None:
    cka, rsa = [], []
    for seed in range(150):
        one, other = normals(12, 6, seed=2 * seed), normals(12, 9, seed=2 * seed + 1)
        cka.append(cka_test(one, other, 99, seed)[1])
        rsa.append(rsa_test(dissimilarities(one), dissimilarities(other), 99, seed)[1])
    for found in (cka, rsa):
        assert kstest(found, "uniform").pvalue > 0.01
        assert min(found) >= 0.01


def test_p_values_are_small_with_a_relation() -> None:
    one = normals(25, 8)
    other = one + 0.5 * normals(25, 8, seed=1)
    assert cka_test(one, other, 199)[1] == pytest.approx(1 / 200)
    assert rsa_test(dissimilarities(one), dissimilarities(other), 199)[1] == pytest.approx(1 / 200)


def test_rsa_agrees_with_scipy() -> None:
    one, other = dissimilarities(normals(9, 4)), dissimilarities(np.round(normals(9, 3, seed=1)))
    upper = np.triu_indices(9, 1)
    expected = spearmanr(one[upper], other[upper]).statistic
    assert rdm_correlation(one, other) == pytest.approx(expected)
    assert rsa_test(one, other, 20)[0] == pytest.approx(expected)


def test_what_is_undefined_has_no_p_value() -> None:
    alike = 1 - np.eye(6)
    assert all(math.isnan(part) for part in rsa_test(dissimilarities(normals(6, 4)), alike, 50))
    assert all(math.isnan(part) for part in cka_test(normals(8, 3), np.ones((8, 3)), 50))
    assert all(math.isnan(part) for part in cka_test(normals(3, 3), normals(3, 3), 50))
    assert all(math.isnan(part) for part in cka_jackknife(normals(4, 3), normals(4, 3)))
    single = bootstrap_mean(np.array([[0.3]]))
    assert single.value == 0.3
    assert math.isnan(single.low[0])
    assert math.isnan(single.high[0])


def test_permutation_p_counts_the_observed_among_the_permuted() -> None:
    assert permutation_p(2.0, np.array([1.0, 2.0, 3.0])) == 3 / 4
    assert permutation_p(9.0, np.zeros(99)) == 0.01

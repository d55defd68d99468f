"""Intervals and counts against closed forms and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from labtrail.statistics import confusion, ranks, top_k_correct, wilson


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_equals_scipy(successes: int, trials: int) -> None:
    successes = min(successes, trials)
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_the_published_figure_and_of_nothing() -> None:
    low, high = wilson(163, 258)
    assert (high - low) / 2 == pytest.approx(0.059, abs=0.001)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="must lie between"):
        wilson(3, 2)


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_top_k_equals_sklearn(k: int) -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 10)), generator.integers(0, 10, 200)
    if k < 10:
        expected = round(top_k_accuracy_score(labels, logits, k=k, labels=range(10)) * 200)
    else:
        expected = 200
    assert top_k_correct(logits, labels, k) == expected


def test_ties_go_the_way_of_argmax() -> None:
    logits = np.round(np.random.default_rng(0).normal(size=(300, 6)))
    labels = np.random.default_rng(1).integers(0, 6, 300)
    assert top_k_correct(logits, labels, 1) == (logits.argmax(axis=1) == labels).sum()
    assert ranks(np.zeros((3, 4)), np.array([0, 1, 3])).tolist() == [1, 2, 4]


def test_confusion_equals_sklearn() -> None:
    generator = np.random.default_rng(1)
    labels, guesses = generator.integers(0, 5, (2, 100))
    np.testing.assert_array_equal(confusion(labels, guesses, 5), confusion_matrix(labels, guesses, labels=range(5)))

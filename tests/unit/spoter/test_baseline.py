"""DTW against a plain recursion, and the neighbour it finds."""

import numpy as np
import pytest

from projects.spoter.baseline import FRAMES, dtw, features, nearest_labels


def plain_dtw(one: np.ndarray, other: np.ndarray) -> float:
    n, m = len(one), len(other)
    best = np.full((n + 1, m + 1), np.inf)
    best[0, 0] = 0
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            cost = np.linalg.norm(one[i - 1] - other[j - 1])
            best[i, j] = cost + min(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1])
    return best[n, m] / (n + m)


def test_dtw_equals_the_recursion() -> None:
    generator = np.random.default_rng(0)
    one, many = generator.normal(size=(6, 3)), generator.normal(size=(5, 8, 3))
    assert dtw(one, many) == pytest.approx([plain_dtw(one, other) for other in many])
    # The squared distance is formed as a difference of sums, so rounding leaves about 1e-8 of zero.
    assert dtw(one, one[None])[0] == pytest.approx(0, abs=1e-7)


def test_nearest_label_of_a_slower_clip() -> None:
    generator = np.random.default_rng(1)
    references = generator.normal(size=(4, 12, 5))
    slower = np.repeat(references, 2, axis=1)[:, ::2]
    assert nearest_labels(slower, references, np.array([7, 8, 9, 7])).tolist() == [7, 8, 9, 7]


def test_features_have_one_size_and_keep_the_ends() -> None:
    generator = np.random.default_rng(2)
    frames = generator.uniform(0.2, 0.8, (30, 54, 2))
    found = features(frames, np.array([1, 12, 17]))
    assert found.shape == (3, FRAMES, 92)
    assert (found[0] == found[0, 0]).all()
    again = features(frames[1:13], np.array([12]))[0]
    np.testing.assert_allclose(found[1], again)

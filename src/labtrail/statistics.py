"""Numbers about numbers; pure functions of arrays."""

import math

import numpy as np
from scipy.special import stdtrit

Z_95 = 1.959963984540054


def wilson(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927, JASA 22:209).

    Args:
        successes: number of successes, 0 <= successes <= trials.
        trials: number of trials; 0 gives the whole interval (0, 1).
        z: quantile of the standard normal; the default gives 95 % coverage.

    Returns:
        Lower and upper end, both within [0, 1].
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"successes {successes} must lie between 0 and trials {trials}")
    if trials == 0:
        return 0.0, 1.0
    rate = successes / trials
    centre = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student t interval of independent values (seeds, folds).

    Args:
        values: shape (n,), any float dtype; with n = 1 the interval is unbounded.
        level: coverage.

    Returns:
        Mean, lower end, upper end.
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0:
        raise ValueError("mean_interval needs at least one value")
    mean = float(values.mean())
    if values.size == 1:
        return mean, -math.inf, math.inf
    half = float(stdtrit(values.size - 1, 0.5 + level / 2) * values.std(ddof=1) / math.sqrt(values.size))
    return mean, mean - half, mean + half


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Number of rows whose label is among the k largest logits; ties count against the label.

    Args:
        logits: shape (n, classes), float.
        labels: shape (n,), int, class indices.
        k: 1 <= k; more than there are classes counts every row.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    others_at_least_as_large = (logits >= own).sum(axis=1) - 1
    return int((others_at_least_as_large < k).sum())


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts, shape (classes, classes), int64: row = true class, column = predicted class."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table

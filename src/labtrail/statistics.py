"""Numbers about numbers; pure functions of arrays."""

import math

import numpy as np

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


def ranks(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each row's label among its logits, 1 = best; ties go to the lower class, as argmax has it.

    Args:
        logits: shape (n, classes), float.
        labels: shape (n,), int, class indices.

    Returns:
        Shape (n,), int64.
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1) + 1


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Number of rows whose label is among the k largest logits; arguments as ``ranks``."""
    return int((ranks(logits, labels) <= k).sum())


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts, shape (classes, classes), int64: row = true class, column = predicted class."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table

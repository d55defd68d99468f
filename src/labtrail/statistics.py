"""Numbers about numbers; pure functions of arrays.

Why: docs/decisions/021-jackknife-for-cka.md
"""

import math
from typing import NamedTuple

import numpy as np

Z_95 = 1.959963984540054
_CHUNK = 1 << 24
_NO_SPREAD = 1e-12
# The unbiased HSIC divides by n - 3.
_LEAST_ITEMS = 4


class Estimate(NamedTuple):
    """Values with the ends of their intervals; numbers or arrays of one shape."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


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
    label_logits = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > label_logits) | ((logits == label_logits) & earlier)).sum(axis=1) + 1


def top_k_correct(logits: np.ndarray, labels: np.ndarray, k: int) -> int:
    """Number of rows whose label is among the k largest logits; arguments as ``ranks``."""
    return int((ranks(logits, labels) <= k).sum())


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts, shape (classes, classes), int64: row = true class, column = predicted class."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predictions), 1)
    return table


def bootstrap_mean(values: np.ndarray, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean over the first axis with a percentile bootstrap interval (Efron 1979), many means at once.

    The ends are NaN for fewer than two units: one tells nothing about the spread.

    Args:
        values: shape (n, ...), float; the n units (clips) are resampled together.
        resamples: number of bootstrap samples.
        seed: of the resampling.
        level: coverage.

    Returns:
        Arrays of shape (...).
    """
    count = len(values)
    flat = np.asarray(values, dtype=float).reshape(count, -1)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples) / count
    ends = np.empty((2, flat.shape[1]))
    step = max(1, _CHUNK // resamples)
    for start in range(0, flat.shape[1], step):
        part = slice(start, start + step)
        ends[:, part] = np.quantile(weights @ flat[:, part], [(1 - level) / 2, (1 + level) / 2], axis=0)
    if count < 2:
        ends[:] = np.nan
    shape = np.shape(values)[1:]
    return Estimate(flat.mean(axis=0).reshape(shape), ends[0].reshape(shape), ends[1].reshape(shape))


def t_interval(values: np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over the first axis with Student's t interval: for a few seeds, where a bootstrap is too narrow.

    The ends are NaN for fewer than two values.

    Args:
        values: shape (n, ...), float.
        level: coverage.

    Returns:
        Arrays of shape (...).
    """
    from scipy.stats import t as student_t

    count, mean = len(values), np.mean(values, axis=0)
    if count < 2:
        return Estimate(np.asarray(mean), np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    reach = student_t.ppf((1 + level) / 2, count - 1) * np.std(values, axis=0, ddof=1) / math.sqrt(count)
    return Estimate(np.asarray(mean), np.asarray(mean - reach), np.asarray(mean + reach))


def paired_t(differences: np.ndarray) -> float:
    """Two-sided p-value of Student's paired t test; NaN for fewer than two pairs, or differences that are all equal.

    Scores are shares of few items, so two seeds agree to the digit by chance: no spread is no evidence.
    """
    from scipy.stats import t as student_t

    count = len(differences)
    spread = float(np.std(differences, ddof=1)) if count > 1 else 0.0
    if spread <= _NO_SPREAD:
        return math.nan
    mean = float(np.mean(differences))
    return float(2 * student_t.sf(abs(mean) / (spread / math.sqrt(count)), count - 1))


def holm(p_values: np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979, step-down); NaN stays and does not count."""
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return corrected


def detectable(spread: float, count: int, level: float = 0.95, power: float = 0.8) -> float:
    """The paired difference that a t test of so many pairs finds with this power; the usual two-quantile formula.

    Args:
        spread: standard deviation of the differences.
        count: number of pairs, at least 2.
        level: 1 - the size of the test.
        power: chance to find it.
    """
    from scipy.stats import t as student_t

    quantiles = student_t.ppf((1 + level) / 2, count - 1) + student_t.ppf(power, count - 1)
    return float(quantiles * spread / math.sqrt(count))


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p-value of a statistic among those of permuted data (Phipson & Smyth 2010); never 0, NaN of NaN."""
    if math.isnan(observed):
        return math.nan
    return (1 + int((null >= observed).sum())) / (1 + len(null))


def entropy(weights: np.ndarray) -> np.ndarray:
    """Shannon entropy over the last axis in nats; 0 log 0 = 0."""
    from scipy.special import entr

    return entr(weights).sum(axis=-1)


def jensen_shannon(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence over the last axis in bits, within [0, 1] (Lin 1991)."""
    mixture = entropy((first + other) / 2)
    return np.clip((mixture - (entropy(first) + entropy(other)) / 2) / math.log(2), 0.0, 1.0)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width bins, weighted by their size (Guo et al. 2017).

    Args:
        probabilities: shape (n, classes), rows sum to 1.
        labels: shape (n,), int.
        bins: number of confidence bins.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def centred_gram(features: np.ndarray) -> np.ndarray:
    """The U-centred Gram matrix of features (n, d), shape (n, n), zero diagonal (Szekely & Rizzo 2014).

    Raises:
        ValueError: fewer than 4 rows; the debiased estimators below need n > 3.
    """
    count = len(features)
    if count < _LEAST_ITEMS:
        raise ValueError(f"{count} rows are too few for a debiased estimate; it needs {_LEAST_ITEMS}")
    rows = features - features.mean(axis=0)
    gram = rows @ rows.T
    np.fill_diagonal(gram, 0.0)
    sums = gram.sum(axis=0)
    gram -= (sums[:, None] + sums[None]) / (count - 2)
    gram += sums.sum() / ((count - 1) * (count - 2))
    np.fill_diagonal(gram, 0.0)
    return gram


def cka_of_grams(first: np.ndarray, other: np.ndarray) -> float:
    """Debiased linear CKA of two U-centred Gram matrices; NaN where one has no structure beyond noise."""
    norms = (first * first).sum() * (other * other).sum()
    return float((first * other).sum() / math.sqrt(norms)) if norms > 0 else math.nan


def debiased_cka(first: np.ndarray, other: np.ndarray) -> float:
    """Linear centred kernel alignment with the unbiased HSIC (Kornblith et al. 2019; Song et al. 2012, eq. 5).

    About 0 for independent features however many columns they have, where plain CKA is not; 1 for features that
    are equal up to rotation, shift and scale.

    Args:
        one, other: shapes (n, d1), (n, d2), n >= 4; the same n items.
    """
    return cka_of_grams(centred_gram(first), centred_gram(other))


def cka_test(
    first_features: np.ndarray, other: np.ndarray, permutations: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Debiased CKA and its one-sided p-value under permutations of the items; arguments as ``debiased_cka``.

    Both are NaN where the CKA is undefined, as for fewer than 4 items.
    """
    if len(first_features) < _LEAST_ITEMS:
        return math.nan, math.nan
    first, second = centred_gram(first_features), centred_gram(other)
    generator = np.random.default_rng(seed)
    orders = (generator.permutation(len(first)) for _ in range(permutations))
    null = np.array([(first * second[np.ix_(order, order)]).sum() for order in orders])
    value = cka_of_grams(first, second)
    return value, math.nan if math.isnan(value) else permutation_p((first * second).sum(), null)


def cka_jackknife(first: np.ndarray, other: np.ndarray, groups: int = 20, z: float = Z_95) -> Estimate:
    """Debiased CKA with a normal interval from a delete-a-group jackknife over items (Efron & Tibshirani 1993, 11.5).

    The bootstrap is no choice here: repeated items look alike and bias the estimate upwards. All NaN for fewer than
    5 items.
    """
    count = len(first)
    if count <= _LEAST_ITEMS:
        return Estimate(*(np.array(math.nan) for _ in range(3)))
    groups = min(groups, count)
    place = np.arange(count) % groups
    left_out = np.array([debiased_cka(first[place != group], other[place != group]) for group in range(groups)])
    value = debiased_cka(first, other)
    error = math.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum())
    return Estimate(np.array(value), np.array(value - z * error), np.array(value + z * error))


def dissimilarities(features: np.ndarray) -> np.ndarray:
    """1 - Pearson correlation of every two items (n, d), shape (n, n) (Kriegeskorte et al. 2008)."""
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(features, "correlation"))


def rdm_correlation(first: np.ndarray, other: np.ndarray) -> float:
    """Spearman correlation of the upper triangles of two dissimilarity matrices (n, n)."""
    from scipy.stats import rankdata

    upper = np.triu_indices(len(first), 1)
    return _pearson(rankdata(first[upper]), rankdata(other[upper]))


def rsa_test(
    first_matrix: np.ndarray, other: np.ndarray, permutations: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Representational similarity and its one-sided p-value under permutations of the items.

    Args:
        one, other: dissimilarity matrices (n, n) of the same items.
        permutations, seed: of the test, which permutes rows and columns of ``other`` together.
    """
    from scipy.spatial.distance import squareform
    from scipy.stats import rankdata

    upper = np.triu_indices(len(first_matrix), 1)
    first = rankdata(first_matrix[upper])
    ranks_of_other = squareform(rankdata(other[upper]))
    generator = np.random.default_rng(seed)
    orders = (generator.permutation(len(first_matrix)) for _ in range(permutations))
    null = np.array([_pearson(first, ranks_of_other[np.ix_(order, order)][upper]) for order in orders])
    value = _pearson(first, ranks_of_other[upper])
    return value, permutation_p(value, null)


def _pearson(first: np.ndarray, other: np.ndarray) -> float:
    a, b = first - first.mean(), other - other.mean()
    scale = math.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else math.nan

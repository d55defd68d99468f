"""How features lie: their dimension, their neighbours, and how like those of another network they are.

StageWidths: features (n, d) of n images, labels (n,).
"""

import numpy as np
from scipy.spatial.distance import pdist, squareform
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def participation_ratio(features: np.ndarray) -> float:
    """Effective dimension, 1 .. d: (sum of variances along principal axes)^2 / sum of squares (Gao et al. 2017)."""
    values = np.clip(np.linalg.eigvalsh(np.cov(features.astype(float), rowvar=False)), 0, None)
    return float(values.sum() ** 2 / max(np.square(values).sum(), np.finfo(float).tiny))


def two_nn(features: np.ndarray) -> float:
    """Intrinsic dimension from the two nearest neighbours, by maximum likelihood (Facco et al. 2017, eq. 6).

    Images without a nearest neighbour of their own (duplicates) are left out; NaN if fewer than 3 remain.
    """
    distances = squareform(pdist(features.astype(float)))
    np.fill_diagonal(distances, np.inf)
    nearest = np.partition(distances, 1, axis=1)[:, :2]
    apart = nearest[:, 0] > 0
    logs = np.log(nearest[apart, 1] / nearest[apart, 0])
    return float(len(logs) / logs.sum()) if len(logs) > 2 and logs.sum() > 0 else float("nan")


def neighbour_accuracy(features: np.ndarray, labels: np.ndarray, neighbours: int = 5) -> float:
    """Share of images whose nearest others (by cosine) mostly have their label; ties go to the lower class."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    alike = unit @ unit.T
    np.fill_diagonal(alike, -np.inf)
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :neighbours]
    votes = np.apply_along_axis(np.bincount, 1, labels[nearest], minlength=int(labels.max()) + 1)
    return float((votes.argmax(axis=1) == labels).mean())


def probe_accuracy(features: np.ndarray, labels: np.ndarray, folds: int = 5) -> float:
    """Accuracy of a linear (ridge) classifier on standardised features, cross-validated over the images."""
    least = int(np.bincount(labels)[np.unique(labels)].min())
    if least < 2:
        return float("nan")
    splits = StratifiedKFold(min(folds, least), shuffle=True, random_state=0)
    probe = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0))
    return float(cross_val_score(probe, features, labels, cv=splits).mean())


def procrustes_distance(first_features: np.ndarray, other: np.ndarray) -> float:
    """Distance left after the best rotation of centred features of size 1 (Williams et al. 2021); 0 .. sqrt(2)."""
    first, second = (_centred(features) for features in (first_features, other))
    overlap = np.linalg.svd(first.T @ second, compute_uv=False).sum()
    return float(np.sqrt(max(0.0, 2 - 2 * overlap)))


def _centred(features: np.ndarray) -> np.ndarray:
    rows = features.astype(float) - features.mean(axis=0, dtype=float)
    return rows / max(float(np.linalg.norm(rows)), np.finfo(float).tiny)


def error_overlap(first: np.ndarray, other: np.ndarray) -> float:
    """Cohen's kappa of two networks' errors (bool, (n,)): 1 the same images, 0 as many in common as by chance."""
    both = float((first == other).mean())
    chance = float(first.mean() * other.mean() + (1 - first.mean()) * (1 - other.mean()))
    return (both - chance) / (1 - chance) if chance < 1 else float("nan")

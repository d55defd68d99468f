"""The baseline without learning: the label of the nearest training clip under dynamic time warping.

DTW as in Sakoe & Chiba 1978 with steps (1,0), (0,1), (1,1) of weight 1; the cost of the best path is
divided by the two lengths' sum. Clips are normalised, resampled to equally many frames and reduced to
elbows, wrists and hands.
"""

import numpy as np
from tqdm import tqdm

from projects.spoter.normalise import normalise
from projects.spoter.skeleton import HANDS, JOINTS

FRAMES = 12
_ARM_JOINTS = [JOINTS.index(name) for name in ("rightElbow", "leftElbow", "rightWrist", "leftWrist")]
_USED = [*_ARM_JOINTS, *(joint for hand in HANDS for joint in range(hand.start, hand.stop))]


def features(frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Joined raw clips (N, 54, 2) to comparable ones, shape (clips, 12, 92), float64."""
    rows = normalise(frames, lengths)[:, _USED].reshape(len(frames), -1)
    starts = np.cumsum(lengths) - lengths
    position = np.linspace(0, 1, FRAMES) * (lengths[:, None] - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, lengths[:, None] - 1)
    share = (position - low)[..., None]
    return rows[starts[:, None] + low] * (1 - share) + rows[starts[:, None] + high] * share


def dtw(query: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Normalised DTW distance of one clip (n, d) to each of many (k, m, d); shape (k,)."""
    squared = (query**2).sum(-1)[:, None] + (many**2).sum(-1)[:, None] - 2 * np.einsum("nd,kmd->knm", query, many)
    cost = np.sqrt(np.maximum(squared, 0.0))
    total = np.full((len(many), len(query) + 1, many.shape[1] + 1), np.inf)
    total[:, 0, 0] = 0.0
    for i in range(len(query)):
        for j in range(many.shape[1]):
            before = np.minimum(np.minimum(total[:, i, j], total[:, i, j + 1]), total[:, i + 1, j])
            total[:, i + 1, j + 1] = cost[:, i, j] + before
    return total[:, -1, -1] / (len(query) + many.shape[1])


def nearest_labels(queries: np.ndarray, references: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The label of each query's nearest reference; shapes (q, n, d), (r, m, d), (r,) to (q,)."""
    rows = tqdm(queries, desc="baseline 1-NN", unit="clip", leave=False, disable=None)
    return np.array([labels[int(dtw(query, references).argmin())] for query in rows])

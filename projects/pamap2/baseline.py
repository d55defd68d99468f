"""The baseline without deep learning: extremely randomised trees on statistics of each window (Geurts et al. 2006)."""

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier

from projects.pamap2.inputs import COLUMNS, DeviceWindows
from projects.pamap2.schema import MODALITIES, SENSORS

_TREES = 300
_CHUNK = 512


def features(resident: DeviceWindows, modalities: Sequence[str], starts: np.ndarray) -> np.ndarray:
    """Mean, deviation, range, quartiles and mean absolute step of each channel c of them, (n, 8 c), float32."""
    wanted = [COLUMNS.index(SENSORS.index(channel)) for name in modalities for channel in MODALITIES[name]]
    parts = []
    for begin in range(0, len(starts), _CHUNK):
        raw = resident.windows(starts[begin : begin + _CHUNK])[0][..., wanted].cpu().numpy()
        quartiles = np.quantile(raw, [0.0, 0.25, 0.5, 0.75, 1.0], axis=1)
        steps = np.abs(np.diff(raw, axis=1)).mean(axis=1)
        parts.append(np.concatenate([raw.mean(axis=1), raw.std(axis=1), *quartiles, steps], axis=1))
    return np.concatenate(parts).astype(np.float32)


def extra_trees_predict(
    resident: DeviceWindows, modalities: Sequence[str], train: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """Classes of the test windows from trees grown on the training windows.

    Args:
        resident: the rows.
        modalities: those that the trees may look at.
        train, test: first rows of the windows.
        seed: of the trees.
    """
    trees = ExtraTreesClassifier(_TREES, class_weight="balanced", random_state=seed, n_jobs=1)
    trees.fit(features(resident, modalities, train), resident.labels.cpu().numpy()[train])
    return trees.predict(features(resident, modalities, test))

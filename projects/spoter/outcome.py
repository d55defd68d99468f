"""Tables and figures of a run's outcome on the test split."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from labtrail import figures
from labtrail.statistics import confusion, ranks
from projects.spoter.data import Splits


def outcome_files(logits: np.ndarray, splits: Splits) -> dict[str, Any]:
    """Predictions and confusion counts as tables, and the confusion as a picture.

    Args:
        logits: shape (test clips, classes).
        splits: the data; classes are written as the files write them.
    """
    table = predictions(logits, splits)
    counts = confusion(splits.test.labels, logits.argmax(axis=1), splits.classes)
    names = np.arange(splits.classes) + splits.first_label
    wide = pd.DataFrame(counts, columns=names.astype(str))
    wide.insert(0, "label", names)
    return {
        "tables/predictions.csv": table,
        "tables/confusion.csv": wide,
        "figures/confusion.png": figures.confusion(counts, names, "Test split: true against predicted class"),
    }


def predictions(logits: np.ndarray, splits: Splits) -> pd.DataFrame:
    """One row per test clip: label, prediction, its probability, and the rank of the true label (1 = best)."""
    labels = splits.test.labels
    guesses = logits.argmax(axis=1)
    return pd.DataFrame(
        {
            "clip": np.arange(len(labels)),
            "frames": splits.test.clips.lengths,
            "label": labels + splits.first_label,
            "prediction": guesses + splits.first_label,
            "probability": softmax(logits.astype(float), axis=1).max(axis=1),
            "rank": ranks(logits, labels),
        }
    )

"""Tables and figures of a run's outcome on its test windows."""

from typing import Any

import numpy as np
import pandas as pd

from labtrail import figures
from labtrail.statistics import confusion
from projects.pamap2.evaluate import macro_f1
from projects.pamap2.folds import Classes, Fold


def outcome_files(
    logits: np.ndarray, trees: np.ndarray, labels: np.ndarray, subjects: np.ndarray, folds: list[Fold], classes: Classes
) -> dict[str, Any]:
    """Confusion, F1 by class, and scores by fold and by subject, each beside the baseline.

    Args:
        logits: shape (windows, classes), the test windows of all folds joined.
        trees: classes that the baseline gives them.
        labels, subjects: of each window.
        folds: in the order of the windows.
        classes: their names.
    """
    guesses = logits.argmax(axis=1)
    counts = confusion(labels, guesses, len(classes.ids))
    names = np.array(classes.names)
    wide = pd.DataFrame(counts, columns=classes.names)
    wide.insert(0, "label", classes.names)
    fold = np.repeat([fold.name for fold in folds], [len(fold.test) for fold in folds])
    return {
        "tables/confusion.csv": wide,
        "tables/by_fold.csv": _by("fold", fold, guesses, trees, labels),
        "tables/by_subject.csv": _by("subject", subjects, guesses, trees, labels),
        "tables/by_class.csv": _by_class(guesses, trees, labels, classes),
        "figures/confusion.png": figures.confusion(counts, names, "Test windows: true against predicted activity"),
    }


def _by(name: str, groups: np.ndarray, guesses: np.ndarray, trees: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Columns: the group, windows, macro_f1, accuracy, baseline_macro_f1."""
    rows = []
    for group in dict.fromkeys(groups.tolist()):
        members = groups == group
        rows.append(
            (
                group,
                int(members.sum()),
                macro_f1(labels[members], guesses[members]),
                float((guesses[members] == labels[members]).mean()),
                macro_f1(labels[members], trees[members]),
            )
        )
    return pd.DataFrame(rows, columns=[name, "windows", "macro_f1", "accuracy", "baseline_macro_f1"])


def _by_class(guesses: np.ndarray, trees: np.ndarray, labels: np.ndarray, classes: Classes) -> pd.DataFrame:
    """Columns: activity, name, windows, f1, baseline_f1."""
    rows = []
    for index, (activity, name) in enumerate(zip(classes.ids, classes.names, strict=True)):
        class_scores = [_f1(index, answers, labels) for answers in (guesses, trees)]
        rows.append((activity, name, int((labels == index).sum()), *class_scores))
    return pd.DataFrame(rows, columns=["activity", "name", "windows", "f1", "baseline_f1"])


def _f1(index: int, guesses: np.ndarray, labels: np.ndarray) -> float:
    hits = int(((guesses == index) & (labels == index)).sum())
    both = int((guesses == index).sum() + (labels == index).sum())
    return 2 * hits / both if both else 0.0

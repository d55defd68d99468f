"""Estimators of scikit-learn on a run: cross validation that goes on with the next fold after a kill.

    @lt.task(score="validation/accuracy")
    def forest(config: ForestConfig, run: lt.Run):
        x, y = load_breast_cancer(return_X_y=True)
        model = RandomForestClassifier(config.trees, random_state=config.seed)
        yield from cross_validated(run, model, x, y, cv=5, scoring=["accuracy"])

Why: docs/decisions/059-loops-of-other-libraries.md
"""

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.metrics import get_scorer
from sklearn.model_selection import check_cv

from labtrail.record import Record
from labtrail.running.run import Run


def cross_validated(
    run: Run,
    estimator: Any,
    x: Any,
    y: Any,
    *,
    cv: Any = 5,
    scoring: Sequence[str],
    groups: Any = None,
) -> Generator[Record]:
    """One Record for each fold, and a last one with the means over all folds and their spread.

    What draws at random is given a ``random_state``, or draws from NumPy's global generator, whose state is kept.

    Args:
        run: of the task; it may not have called ``restore``.
        estimator: cloned for each fold.
        x: samples, shape (n, ...): an array, a frame or a sparse matrix.
        y: targets, shape (n,) or (n, outputs).
        cv: number of folds, or a splitter; folds are drawn once, at the start.
        scoring: names of scikit-learn's scorers (``accuracy``, ``neg_log_loss``); the metrics are
            ``validation/NAME`` of a fold, ``validation/mean_NAME`` and ``validation/std_NAME`` (n - 1) at the end.
        groups: of the samples, for splitters that need them.

    Raises:
        ValueError: a scorer or a splitter is unknown, as scikit-learn says it.
    """
    scorers = {name: get_scorer(name) for name in scoring}
    folds = list(check_cv(cv, y, classifier=is_classifier(estimator)).split(x, y, groups))
    scores: dict[str, list[float]] = {name: [] for name in scorers}
    for number in run.epochs(len(folds), scores=scores):
        train, test = folds[number]
        fitted = clone(estimator).fit(_rows(x, train), _rows(y, train))
        for name, scorer in scorers.items():
            scores[name].append(float(scorer(fitted, _rows(x, test), _rows(y, test))))
        yield Record(number, {f"validation/{name}": values[-1] for name, values in scores.items()})
    means = {f"validation/mean_{name}": float(np.mean(values)) for name, values in scores.items()}
    spread = {f"validation/std_{name}": float(np.std(values, ddof=1)) for name, values in scores.items()}
    yield Record(len(folds), means | spread)


def _rows(data: Any, places: np.ndarray) -> Any:
    """The rows at some places; frames are indexed by place, not by label."""
    if hasattr(data, "iloc"):
        return data.iloc[places]
    return (np.asarray(data) if isinstance(data, list) else data)[places]

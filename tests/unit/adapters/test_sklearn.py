"""Cross validation on a run gives scikit-learn's own scores, also across a kill."""

from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GroupKFold, cross_val_score

from labtrail.adapters.sklearn import cross_validated
from labtrail.record import Record
from labtrail.running.run import Run
from tests.unit.running.loops import drive

X, Y = (part[:200] for part in load_breast_cancer(return_X_y=True))


def forest(run: Run) -> Generator[Record]:
    yield from cross_validated(run, RandomForestClassifier(5, random_state=0), X, Y, cv=4, scoring=["accuracy", "f1"])


def test_scores_are_those_of_scikit_learn(tmp_path: Path) -> None:
    said: list[str] = []
    records = drive(forest, tmp_path, said=said)
    expected = cross_val_score(RandomForestClassifier(5, random_state=0), X, Y, cv=4)
    assert [record.metrics["validation/accuracy"] for record in records[:4]] == expected.tolist()
    assert records[4].metrics["validation/mean_accuracy"] == pytest.approx(expected.mean(), abs=1e-15)
    assert records[4].metrics["validation/std_accuracy"] == pytest.approx(expected.std(ddof=1), abs=1e-15)
    assert said == []


@pytest.mark.parametrize("killed_after", [1, 3])
def test_goes_on_with_the_next_fold(killed_after: int, tmp_path: Path) -> None:
    whole = drive(forest, tmp_path / "whole")
    before = drive(forest, tmp_path / "cut", records=killed_after)
    assert before + drive(forest, tmp_path / "cut") == whole


def test_what_draws_from_the_global_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    def unseeded(run: Run) -> Generator[Record]:
        yield from cross_validated(run, SGDClassifier(max_iter=3, tol=None), X, Y, cv=3, scoring=["accuracy"])

    np.random.seed(5)
    whole = drive(unseeded, tmp_path / "whole")
    np.random.seed(5)
    before = drive(unseeded, tmp_path / "cut", records=2)
    np.random.seed(77)
    assert before + drive(unseeded, tmp_path / "cut") == whole


def test_groups_stay_together(tmp_path: Path) -> None:
    groups = np.arange(200) // 50

    def grouped(run: Run) -> Generator[Record]:
        model = RandomForestClassifier(2, random_state=0)
        yield from cross_validated(run, model, X, Y, cv=GroupKFold(4), scoring=["accuracy"], groups=groups)

    expected = cross_val_score(RandomForestClassifier(2, random_state=0), X, Y, cv=GroupKFold(4), groups=groups)
    records = drive(grouped, tmp_path)
    assert [record.metrics["validation/accuracy"] for record in records[:4]] == expected.tolist()

"""Tables of a comparison, against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from projects.pamap2.comparison import (
    ablation_table,
    position_table,
    protocol_table,
    share_table,
    subject_table,
    subset_table,
)
from projects.pamap2.dataset import Dataset
from projects.pamap2.evidence import SHARES, edge_seconds
from projects.pamap2.inputs import NAMES, subset_names
from projects.pamap2.judged import SUBSETS


def subsets_of(**scores: float) -> pd.DataFrame:
    """A row per run and subset; a score is that of the full set, each missing modality costs its place / 100."""
    rows = [
        {
            "run_id": run_id,
            "subset": subset_names(there),
            "protocol": "loso",
            "setting": "late",
            "macro_f1": whole - sum((place + 1) / 100 for place, one in enumerate(there) if not one),
        }
        for run_id, whole in scores.items()
        for there in SUBSETS
    ]
    return pd.DataFrame(rows)


def windows() -> pd.DataFrame:
    base = {"protocol": "loso", "fold": "101"}
    rows = [
        {**base, "run_id": "a", "setting": "hybrid", "start": 0, "subject": 101, "label": 0, "guess": 0, "edge_s": 0.0},
        {**base, "run_id": "a", "setting": "hybrid", "start": 9, "subject": 101, "label": 1, "guess": 0, "edge_s": 0.5},
        {**base, "run_id": "b", "setting": "hybrid", "start": 0, "subject": 101, "label": 0, "guess": 0, "edge_s": 0.0},
        {**base, "run_id": "b", "setting": "hybrid", "start": 9, "subject": 101, "label": 1, "guess": 1, "edge_s": 0.5},
        {**base, "run_id": "c", "setting": "late", "start": 0, "subject": 102, "label": 0, "guess": 0, "edge_s": 30.0},
    ]
    shares = np.array(
        [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1], [0.3, 0.2, 0.3, 0.2], [0.2, 0.3, 0.4, 0.1], [0.25] * 4]
    )
    return pd.DataFrame(rows).assign(**dict(zip(SHARES, shares.T, strict=True)))


def test_ablation_is_the_score_lost_without_a_modality_over_seeds() -> None:
    table = ablation_table(subsets_of(a=0.9, b=0.8)).set_index("modality")
    assert table["lost_without"].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.04])
    # The seeds agree on what is lost, so the interval has no width; alone, a modality loses what the others cost.
    assert table["low"].tolist() == pytest.approx(table["high"].tolist())
    assert table["alone"].tolist() == pytest.approx([0.85 - (0.10 - cost) for cost in (0.01, 0.02, 0.03, 0.04)])
    assert table["seeds"].eq(2).all()


def test_the_subset_table_has_the_fifteen_subsets_in_their_order() -> None:
    table = subset_table(subsets_of(a=0.9, b=0.7))
    assert list(table.index) == [subset_names(there) for there in SUBSETS]
    assert table["loso", "late"].iloc[0] == pytest.approx(0.8)


def test_shares_are_given_by_class_where_a_fusion_learns_them() -> None:
    table = share_table(windows(), ["sit", "run"])
    assert table["setting"].tolist() == ["hybrid", "hybrid"]
    assert table["label"].tolist() == ["sit", "run"]
    assert table[list(SHARES)].to_numpy() == pytest.approx(np.array([[0.2, 0.2, 0.3, 0.3], [0.3, 0.3, 0.3, 0.1]]))


def test_scores_by_subject_are_means_over_runs() -> None:
    table = subject_table(windows()).set_index(["setting", "subject"])
    # Run a: F1 2/3 and 0; run b: both right.
    assert table.loc[("hybrid", 101), "mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert table.loc[("late", 102), "mean"] == 1


def test_accuracy_by_place_counts_a_window_once_over_all_seeds() -> None:
    table = position_table(windows()).set_index(["setting", "edge_s"])
    assert table.loc[("hybrid", "0-1"), ["windows", "accuracy"]].tolist() == [2, 0.75]
    assert table.loc[("late", "20+"), ["windows", "accuracy"]].tolist() == [1, 1]


def test_a_single_seed_has_no_interval() -> None:
    runs = pd.DataFrame(
        {
            "run_id": ["a", "b", "c"],
            "protocol": ["loso", "loso", "contiguous"],
            "setting": ["late"] * 3,
            "test/macro_f1": [0.8, 0.9, 0.95],
            "test/accuracy": [0.8, 0.9, 0.95],
            "test/ece": [0.1, 0.1, 0.1],
            "test/baseline_extratrees_macro_f1": [0.7, 0.8, 0.9],
        }
    )
    table = protocol_table(runs).set_index("protocol")
    assert np.isnan(table.loc["contiguous", ["low", "high"]].to_numpy(float)).all()
    # Student's t with one degree of freedom: 12.7062 standard errors.
    assert table.loc["loso", "high"] == pytest.approx(0.85 + 12.7062 * 0.05, abs=1e-4)
    assert table.loc["loso", "run_ids"] == "a b"


def test_a_window_is_as_far_from_the_end_as_its_nearer_side() -> None:
    rows = 1000
    dataset = Dataset(
        values=np.zeros((rows, 52), np.float32),
        seconds=np.arange(rows) / 100,
        subjects=np.full(rows, 101, np.int16),
        activities=np.repeat([1, 2], [400, 600]).astype(np.int16),
        digest="",
        folder=None,  # ty: ignore[invalid-argument-type]
        facts={},
    )
    starts = np.array([0, 150, 300, 400, 800])
    assert edge_seconds(dataset, starts, window=100).tolist() == pytest.approx([0.0, 1.5, 0.0, 0.0, 1.0])


def test_all_modalities_have_a_share() -> None:
    assert len(SHARES) == len(NAMES)

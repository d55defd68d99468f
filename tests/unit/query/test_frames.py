"""Settings that differ, repeats, and groups."""

import numpy as np
import pandas as pd
import pytest

from labtrail.query.frames import group_names, grouped, newest_of_each, over_seeds, paired_differences, varying
from labtrail.store import contract

RUNS = pd.DataFrame(
    {
        "run_id": ["a", "b", "c"],
        "started": [1, 2, 3],
        contract.KEY: ["x", "y", "x"],
        "cfg.seed": ["0", "1", "0"],
        "cfg.model.fusion": ["late", "late", "early"],
        "cfg.model.width": ["16", "32", "16"],
        "cfg.train.compile": [None, "False", "False"],
    }
)


def test_keys_that_runs_differ_in_without_seeds_and_without_those_that_older_runs_lack() -> None:
    assert varying(RUNS) == ["cfg.model.fusion", "cfg.model.width"]
    assert varying(RUNS, ("cfg.model.width",)) == ["cfg.model.fusion", "cfg.seed"]


def test_settings_are_named_by_their_values() -> None:
    assert group_names(RUNS, varying(RUNS)).tolist() == ["late, width=16", "late, width=32", "early, width=16"]
    assert group_names(RUNS, []).tolist() == ["", "", ""]


def test_of_repeats_the_newest_counts() -> None:
    assert newest_of_each(RUNS)["run_id"].tolist() == ["b", "c"]


def test_groups_are_by_rising_values() -> None:
    found = [(key, own["run_id"].tolist()) for key, own in grouped(RUNS, ["cfg.model.fusion", "cfg.seed"])]
    assert found == [(("early", "0"), ["c"]), (("late", "0"), ["a"]), (("late", "1"), ["b"])]


def repeats() -> pd.DataFrame:
    rows = [
        ("a1", "a", "0", 0.80),
        ("a2", "a", "1", 0.84),
        ("a3", "a", "2", 0.82),
        ("b1", "b", "0", 0.81),
        ("b2", "b", "1", 0.86),
        ("b3", "b", "2", 0.85),
        ("c1", "c", "0", 0.5),
    ]
    return pd.DataFrame(rows, columns=["run_id", "group", "cfg.seed", "x"])


def test_repeats_are_told_with_their_intervals() -> None:
    found = over_seeds(repeats(), ["x", "absent"], ["group"]).set_index("group")
    assert found["runs"].tolist() == [3, 3, 1]
    assert found["metric"].unique().tolist() == ["x"]
    # Mean .82, deviation .02, t quantile 4.303 for two degrees of freedom.
    assert found.loc["a", "mean"] == pytest.approx(0.82)
    assert found.loc["a", "deviation"] == pytest.approx(0.02)
    assert found.loc["a", "high"] - 0.82 == pytest.approx(4.30265 * 0.02 / 3**0.5, rel=1e-5)
    assert 0.80 <= found.loc["a", "boot_low"] <= 0.82 <= found.loc["a", "boot_high"] <= 0.84
    assert np.isnan(found.loc["c", ["deviation", "low", "high", "boot_low"]].astype(float)).all()
    assert found.loc["a", "run_ids"] == "a1 a2 a3"
    assert over_seeds(repeats(), ["x"], []).loc[0, "runs"] == 7


def test_differences_are_paired_by_seed() -> None:
    found = paired_differences(repeats(), "x", "group", "a").set_index("group")
    assert found.loc["b", "pairs"] == 3
    assert found.loc["b", "difference"] == pytest.approx((0.01 + 0.02 + 0.03) / 3)
    # t = .02 / (.01 / sqrt 3) = 3.4641 with two degrees of freedom.
    assert found.loc["b", "p"] == pytest.approx(0.0742, abs=1e-4)
    assert found.loc["c", "pairs"] == 1
    assert np.isnan(found.loc["c", "p"])
    assert found.loc["b", "p_holm"] == found.loc["b", "p"]
    assert paired_differences(repeats(), "x", "group", "nobody").empty

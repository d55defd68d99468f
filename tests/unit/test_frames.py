"""Settings that differ, repeats, and groups."""

import pandas as pd

from labtrail import contract
from labtrail.frames import group_names, grouped, newest_of_each, varying

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

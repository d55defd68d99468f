"""Tables with alpha as the independent variable, against values worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from projects.distill import comparison
from projects.distill.analysis import findings

# method, alpha, accuracies of seeds 0, 1, 2
CELLS = [("none", 0.0, (0.80, 0.82, 0.84)), ("control", 0.5, (0.79, 0.80, 0.84)), ("logit", 0.5, (0.86, 0.87, 0.91))]


def runs() -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{method}{seed}",
            "data": "digits",
            "recipe": "resnet8",
            "arm": method,
            "method": method,
            "alpha": alpha,
            "seed": seed,
            "model": "resnet8",
            "teacher": "",
            "accuracy": score,
            "accuracy_last": score,
            "cka_33": 0.5,
        }
        for method, alpha, scores in CELLS
        for seed, score in enumerate(scores)
    ]
    teacher = {**rows[0], "run_id": "teacher", "model": "resnet14", "recipe": "resnet14", "accuracy": 0.99}
    return pd.DataFrame([*rows, teacher])


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = dict(zip(runs()["run_id"], runs()["accuracy"], strict=True))
    monkeypatch.setattr(comparison, "correct", lambda run_id: np.arange(100) < round(100 * scores[run_id]))


def test_gains_are_paired_by_seed_and_teachers_are_no_baseline() -> None:
    table = comparison.accuracy_table(runs()).set_index("method")
    assert table.loc["none", "accuracy"] == pytest.approx(0.82)
    assert table.loc["none", "run_ids"] == "none0 none1 none2"
    assert table.loc["logit", "gain_baseline"] == pytest.approx(0.06)
    assert table.loc["logit", "gain_control"] == pytest.approx(0.07)
    # The differences to control are all 0.07: without a spread there is no test.
    assert np.isnan(table.loc["logit", "p_control"])
    assert table.loc["logit", "gain_control_low"] == pytest.approx(0.07)
    # Mean over seeds: between 6 and 7 of 100 images change; the bootstrap over images is wider than over seeds.
    assert table.loc["logit", "gain_control_images_low"] < 0.07 < table.loc["logit", "gain_control_images_high"]
    assert np.isnan(table.loc["none", "gain_control"])
    assert table.loc["logit", "p_baseline_holm"] >= table.loc["logit", "p_baseline"] > 0


def test_the_noise_floor_is_the_spread_of_the_baseline() -> None:
    table = comparison.noise_table(
        runs().assign(**{name: 0.0 for name in comparison._COMPARED if not name.startswith("accuracy")})
    ).set_index("measure")
    assert table.loc["accuracy", "deviation"] == pytest.approx(0.02)
    assert table.loc["accuracy", "seeds"] == 3
    assert table.loc["accuracy", "detectable_difference"] > 0.02


def test_findings_say_what_cannot_be_told() -> None:
    own = runs().assign(**{name: 0.0 for name in comparison._COMPARED if not name.startswith("accuracy")})
    text = findings(comparison.accuracy_table(own), comparison.noise_table(own))
    assert "Baseline: 0.8200 test accuracy, mean of 3 seeds" in text
    assert "smaller ones are lost in the noise" in text
    assert "largest gain: logit at alpha 0.5, +0.0700" in text


def test_measures_are_means_over_seeds() -> None:
    table = comparison.measure_table(runs()).set_index("method")
    assert table.loc["logit", "accuracy"] == pytest.approx(0.88)
    assert list(table.index) == ["control", "logit", "none"]


def test_recipes_and_settings_of_a_loss_are_not_pooled() -> None:
    own = runs()
    longer = own[own["run_id"] != "teacher"].assign(recipe="resnet8, epochs=99")
    warmer = own[own["method"] == "logit"].assign(arm="logit (temperature=8)")
    table = comparison.accuracy_table(pd.concat([own, longer, warmer], ignore_index=True))
    assert table["seeds"].eq(3).all()
    assert sorted(table.loc[table["method"] == "logit", "arm"]) == ["logit", "logit", "logit (temperature=8)"]
    assert table.loc[table["arm"] == "logit (temperature=8)", "gain_baseline"].item() == pytest.approx(0.06)


def test_teachers_of_one_data_set_are_no_baseline_of_it_because_another_has_such_students() -> None:
    own = runs()
    other = own[own["method"] != "none"].assign(data="cifar10", recipe="resnet14")
    table = comparison.accuracy_table(pd.concat([own, other], ignore_index=True))
    assert table.loc[(table["data"] == "digits") & (table["method"] == "none"), "seeds"].item() == 3

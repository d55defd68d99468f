"""Which metric counts, and which way is up."""

import pytest

from labtrail.query.scores import Direction, direction_of, headline, score_from_tags


def test_runs_tell_their_score_if_they_agree() -> None:
    assert score_from_tags(["minimize validation/nll", float("nan"), "minimize validation/nll"]) == Direction(
        "validation/nll", False
    )
    assert score_from_tags(["minimize validation/nll", "maximize validation/accuracy"]) is None
    assert score_from_tags([]) is None


@pytest.mark.parametrize(
    ("metric", "larger"),
    [
        ("test/accuracy", True),
        ("test/nll", False),
        ("profile/peak_bytes_predicted", False),
        ("test/ece", False),
        ("validation/loss", False),
        ("profile/step_time_s", False),
        ("test/precise", True),
        ("test/macro_f1", True),
    ],
)
def test_a_name_tells_the_direction(metric: str, larger: bool) -> None:
    assert direction_of(metric).larger is larger


def test_the_score_tells_the_direction_of_its_quantity_everywhere() -> None:
    assert direction_of("test/loss", Direction("validation/loss", True)).larger
    assert Direction("x", True).best([1, 3, 2]) == 3
    assert Direction("x", False).best([1, 3, 2]) == 1


def test_test_metrics_come_first_that_of_the_score_before_all() -> None:
    known = ["best/epoch", "best/validation/f1", "system/memory_mib", "test/accuracy", "test/f1", "train/loss"]
    score = Direction("validation/f1", True)
    assert headline(known, score) == ["test/f1", "test/accuracy", "best/validation/f1"]
    assert headline(["profile/peak", "system/x"], None) == ["profile/peak"]

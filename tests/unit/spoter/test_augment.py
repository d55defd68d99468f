"""The consistent augmentations: missing joints stay missing, and hands move with the picture."""

import random

import numpy as np
import pytest

from projects.spoter import augment
from projects.spoter.config import SyntheticConfig
from projects.spoter.skeleton import HANDS
from projects.spoter.synthetic import generate


@pytest.fixture
def clip() -> np.ndarray:
    clip = generate("train", SyntheticConfig(classes=2, train=1, frames=12))[0][0]
    clip[3:5, 5] = 0.0
    clip[6, HANDS[1]] = 0.0
    return clip


CHANGES = {
    "rotation": augment.Rotation(10.0),
    "perspective": augment.perspective(0.08, right=True),
    "squeeze": augment.squeeze(0.1, 0.05),
    "arms": augment.ArmRotation(np.array([[3.0, np.nan, -4.0, 2.0], [np.nan, 2.0, 1.0, np.nan]])),
}


@pytest.mark.parametrize("name", CHANGES)
def test_missing_joints_stay_missing(name: str, clip: np.ndarray) -> None:
    before = clip.copy()
    moved = augment.apply(CHANGES[name], clip, "consistent")
    np.testing.assert_array_equal(clip, before)
    missing = before[..., 0] == 0
    assert (moved[missing] == before[missing]).all()
    assert (moved[~missing] != before[~missing]).any()


@pytest.mark.parametrize("name", ["rotation", "arms"])
def test_hand_keeps_its_shape_while_it_turns(name: str, clip: np.ndarray) -> None:
    moved = augment.apply(CHANGES[name], clip, "consistent")
    for hand in HANDS:
        present = (clip[:, hand, 0] != 0).all(axis=1)

        def spread(array: np.ndarray, hand: slice = hand, present: np.ndarray = present) -> np.ndarray:
            return np.linalg.norm(array[present, hand][:, :, None] - array[present, hand][:, None], axis=-1)

        np.testing.assert_allclose(spread(moved), spread(clip), atol=1e-12)


def test_original_moves_missing_joints_and_leaves_hands_behind(clip: np.ndarray) -> None:
    turned = augment.apply(CHANGES["rotation"], clip, "original")
    assert (turned[3:5, 5] != 0).all()
    squeezed = augment.apply(CHANGES["squeeze"], clip, "original")
    np.testing.assert_array_equal(squeezed[:, 12:], clip[:, 12:])


def test_homography_maps_the_corners() -> None:
    change = augment.perspective(0.1, right=False)
    matrix = augment.homography_matrix(change.corners)
    corners = np.array([[0, 1], [1, 1], [0, 0], [1, 0]], dtype=float)
    image = np.c_[corners, np.ones(4)] @ matrix.T
    np.testing.assert_allclose(image[:, :2] / image[:, 2:], change.corners, atol=1e-12)


def test_draws_cover_all_kinds_at_their_rates() -> None:
    drawn = [augment.draw(random.Random(seed), 0.5) for seed in range(2000)]
    none = sum(change is None for change in drawn) / 2000
    rotations = sum(isinstance(change, augment.Rotation) for change in drawn) / 2000
    projections = sum(isinstance(change, augment.Homography) for change in drawn) / 2000
    assert none == pytest.approx(0.5, abs=0.05)
    assert rotations == pytest.approx(0.125, abs=0.03)
    assert projections == pytest.approx(0.25, abs=0.04)
    assert all(abs(c.degrees) <= 13 for c in drawn if isinstance(c, augment.Rotation))

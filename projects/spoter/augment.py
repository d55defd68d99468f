"""The four augmentations of SPOTER, applied to raw skeletons before normalisation.

``original`` reproduces the published code, which moves missing joints and, in three of four cases,
leaves the hands behind. ``consistent`` moves all joints of the picture alike and keeps missing
joints missing. The draws follow the published code's use of Python's ``random``.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from projects.spoter.skeleton import ARMS, BODY_SLICE, HANDS

Variant = Literal["original", "consistent"]

MAX_ROTATION_DEG = 13.0
MAX_PERSPECTIVE = 0.1
MAX_SQUEEZE = 0.15
MAX_ARM_DEG = 4.0
ARM_PROBABILITY = 0.3

_UNIT_CORNERS = np.array([[0, 1], [1, 1], [0, 0], [1, 0]], dtype=np.float32)


@dataclass(frozen=True)
class Rotation:
    """All joints turn by ``degrees`` (counter-clockwise) about the centre of the picture."""

    degrees: float


@dataclass(frozen=True)
class Homography:
    """The corners (0,1), (1,1), (0,0), (1,0) of the picture go to ``corners``, shape (4, 2), float32."""

    corners: np.ndarray


@dataclass(frozen=True)
class ArmRotation:
    """Degrees per (arm, joint), shape (2, 4): each joint turns the later joints of its arm; NaN: no turn."""

    degrees: np.ndarray


Augmentation = Rotation | Homography | ArmRotation


def perspective(ratio: float, right: bool) -> Homography:
    """One vertical edge moves inwards by ``ratio`` and loses ``ratio`` at both ends."""
    moved = [[1 - ratio, 1 - ratio], [1 - ratio, ratio]] if right else [[ratio, 1 - ratio], [ratio, ratio]]
    corners = _UNIT_CORNERS.copy()
    corners[[1, 3] if right else [0, 2]] = moved
    return Homography(corners)


def squeeze(left: float, right: float) -> Homography:
    """The vertical edges move inwards by the two fractions; heights stay."""
    corners = _UNIT_CORNERS.copy()
    corners[[0, 2], 0] = left
    corners[[1, 3], 0] = 1 - right
    return Homography(corners)


def draw(generator: random.Random, probability: float) -> Augmentation | None:
    """Decides whether and how to augment one training clip, in the published order of draws.

    Args:
        generator: consumed: one draw for the decision, one for the choice, then the parameters.
        probability: chance that the clip is augmented at all.
    """
    if not generator.random() < probability:
        return None
    return _DRAWS[generator.randrange(len(_DRAWS))](generator)


def _draw_rotation(generator: random.Random) -> Rotation:
    return Rotation(generator.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))


def _draw_perspective(generator: random.Random) -> Homography:
    ratio = generator.uniform(0, MAX_PERSPECTIVE)
    return perspective(ratio, right=not generator.random() < 0.5)


def _draw_squeeze(generator: random.Random) -> Homography:
    left = generator.uniform(0, MAX_SQUEEZE)
    return squeeze(left, generator.uniform(0, MAX_SQUEEZE))


def _draw_arms(generator: random.Random) -> ArmRotation:
    degrees = np.full((len(ARMS), len(ARMS[0])), np.nan)
    for place in np.ndindex(degrees.shape):
        if generator.random() < ARM_PROBABILITY:
            degrees[place] = generator.uniform(-MAX_ARM_DEG, MAX_ARM_DEG)
    return ArmRotation(degrees)


_DRAWS: tuple[Callable[[random.Random], Augmentation], ...] = (
    _draw_rotation,
    _draw_perspective,
    _draw_squeeze,
    _draw_arms,
)


def apply(augmentation: Augmentation, clip: np.ndarray, variant: Variant) -> np.ndarray:
    """The augmented copy of one clip.

    Args:
        augmentation: what to do.
        clip: shape (T, 54, 2), float64, fractions of the picture; not changed.
        variant: ``original`` or ``consistent``.
    """
    match augmentation:
        case Rotation(degrees):
            moved = _turn(clip, np.array([0.5, 0.5]), degrees)
        case Homography(corners):
            moved = _project(clip, corners, variant)
        case ArmRotation(degrees):
            moved = _turn_arms(clip, degrees, variant)
    return moved if variant == "original" else np.where(_missing(clip), clip, moved)


def _missing(clip: np.ndarray) -> np.ndarray:
    return clip[..., :1] == 0


def _turn(points: np.ndarray, centre: np.ndarray, degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offset = points - centre
    turned = np.stack([offset[..., 0] * cos - offset[..., 1] * sin, offset[..., 0] * sin + offset[..., 1] * cos], -1)
    return centre + turned


def _turn_arms(clip: np.ndarray, degrees: np.ndarray, variant: Variant) -> np.ndarray:
    result = clip.copy()
    for arm, hand, angles in zip(ARMS, HANDS, degrees, strict=True):
        outer = list(arm) if variant == "original" else [*arm, *range(hand.start, hand.stop)]
        for place, angle in enumerate(angles):
            # The published code lets the wrist draw an angle that turns nothing.
            if not math.isnan(angle) and place < len(arm) - 1:
                later = outer[place + 1 :]
                centre = result[:, arm[place]][:, None]
                turned = _turn(result[:, later], centre, float(angle))
                # A centre that is missing sits at (0, 0): turning about it would throw the arm off.
                keep = _missing(centre) if variant == "consistent" else np.zeros((len(clip), 1, 1), bool)
                result[:, later] = np.where(keep, result[:, later], turned)
    return result


def homography_matrix(corners: np.ndarray) -> np.ndarray:
    """The 3 x 3 projective map of the unit square's corners to ``corners``, float64."""
    rows, values = [], []
    for (x, y), (u, v) in zip(_UNIT_CORNERS.astype(np.float64), corners.astype(np.float64), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -x * u, -y * u], [0, 0, 0, x, y, 1, -x * v, -y * v]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)


def _project(clip: np.ndarray, corners: np.ndarray, variant: Variant) -> np.ndarray:
    matrix = homography_matrix(corners)
    if variant == "consistent":
        return _map(clip, matrix)
    # The published code maps float32 points of the body and tells missing joints by their image.
    body = _map(clip[:, BODY_SLICE].astype(np.float32).astype(np.float64), matrix).astype(np.float32)
    zero_image = _map(np.zeros(2), matrix).astype(np.float32)
    result = clip.copy()
    result[:, BODY_SLICE] = np.where(body == zero_image, 0.0, body)
    return result


def _map(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    image = points @ matrix[:, :2].T + matrix[:, 2]
    return image[..., :2] / image[..., 2:]

"""Body and hand normalisation of SPOTER (Bohacek & Hruz 2022, section 3.2), vectorised over frames.

Every function takes the frames of all clips joined, so that one call normalises a whole data set.
A joint is missing when its x is 0; y grows upwards. Inside, frames are the last axis (joint, xy, frame):
every step then runs along contiguous memory.
"""

import numpy as np

from projects.spoter.skeleton import BODY_SLICE, HANDS, LEFT_EYE, LEFT_SHOULDER, NECK, NOSE, RIGHT_SHOULDER

# The network's input is centred by this shift; missing joints become -0.5.
CENTRE = 0.5

_BOX_HALF_WIDTH = 3.0
_BOX_HEIGHT = 6.0
_HAND_PADDING = 0.1


def normalise(frames: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The network's input for joined clips.

    Args:
        frames: shape (frames of all clips, 54, 2), float64, fractions of the picture; not changed.
        lengths: shape (clips,), int; frames per clip, summing to the number of frames.

    Returns:
        Array of the same shape and dtype: body in units of the head box, each hand in its own box,
        minus 0.5.
    """
    joints = np.array(frames.transpose(1, 2, 0), order="C")
    box = _head_box(joints, lengths)
    _into_box(joints[BODY_SLICE], *box)
    for hand in HANDS:
        _into_box(joints[hand], *_hand_box(joints[hand]))
    joints -= CENTRE
    return np.array(joints.transpose(2, 0, 1), order="C")


def _into_box(joints: np.ndarray, origin: np.ndarray, extent: np.ndarray) -> None:
    """Moves present joints (joints, 2, N) into a box per frame, in place; an extent of 0 leaves a frame as it is.

    Args:
        joints: changed.
        origin, extent: shape (2, N); lower left corner and size.
    """
    usable = (extent != 0).all(axis=0)
    changed = (joints[:, 0] != 0) & usable
    moved = (joints - origin) / np.where(usable, extent, 1.0)
    np.copyto(joints, moved, where=changed[:, None])


def _head_box(joints: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin and extent of the body's box in each frame, (2, N); a frame without one has extent 0."""
    unit = _length_unit(joints)
    source = _last_known(np.isfinite(unit), lengths)
    known = source >= 0
    source[~known] = 0
    unit = unit[source]
    neck_x = joints[NECK, 0, source]
    top = joints[LEFT_EYE, 1, source] + unit
    low = np.stack([neck_x - _BOX_HALF_WIDTH * unit, top - _BOX_HEIGHT * unit])
    high = np.stack([neck_x + _BOX_HALF_WIDTH * unit, top])
    origin = np.maximum(low, 0.0)
    return origin, np.where(known, np.maximum(high, 0.0) - origin, 0.0)


def _length_unit(joints: np.ndarray) -> np.ndarray:
    """Shoulder distance, else neck-nose distance, else NaN; shape (N,)."""

    def distance(a: int, b: int) -> np.ndarray:
        both = (joints[a, 0] != 0) & (joints[b, 0] != 0)
        difference = joints[a] - joints[b]
        return np.where(both, np.sqrt((difference * difference).sum(axis=0)), np.nan)

    shoulders = distance(LEFT_SHOULDER, RIGHT_SHOULDER)
    return np.where(np.isnan(shoulders), distance(NECK, NOSE), shoulders)


def _last_known(known: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Index of the latest known frame of the same clip up to each frame, -1 where there is none yet."""
    index = np.arange(len(known))
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    latest = np.maximum.accumulate(np.where(known, index, -1))
    return np.where(latest >= start, latest, -1)


def _hand_box(hand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin and extent of the square around a hand (21, 2, N) in each frame; extent 0 where no hand is seen."""
    present = hand != 0
    low = np.where(present, hand, np.inf).min(axis=0)
    high = np.where(present, hand, -np.inf).max(axis=0)
    seen = np.isfinite(low).all(axis=0)
    low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
    size = high - low
    larger = size.max(axis=0)
    margin = _HAND_PADDING * larger + (larger - size) / 2
    origin = low - margin
    return origin, high + margin - origin

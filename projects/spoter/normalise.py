"""Body and hand normalisation of SPOTER (Bohacek & Hruz 2022, section 3.2), vectorised over frames.

Every function takes the frames of all clips joined, so that one call normalises a whole data set.
A joint is missing when its x is 0; y grows upwards.
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
    result = frames.copy()
    _normalise_body(frames, lengths, result)
    for hand in HANDS:
        _normalise_hand(frames[:, hand], result[:, hand])
    result -= CENTRE
    return result


def _normalise_body(frames: np.ndarray, lengths: np.ndarray, result: np.ndarray) -> None:
    unit = _length_unit(frames)
    source = _last_known(np.isfinite(unit), lengths)
    usable = source >= 0
    source = np.where(usable, source, 0)

    unit = np.where(usable, unit[source], 0.0)
    neck_x = frames[source, NECK, 0]
    top = frames[source, LEFT_EYE, 1] + unit
    bottom = np.maximum(top - _BOX_HEIGHT * unit, 0.0)
    top = np.maximum(top, 0.0)
    left = np.maximum(neck_x - _BOX_HALF_WIDTH * unit, 0.0)
    right = np.maximum(neck_x + _BOX_HALF_WIDTH * unit, 0.0)
    width, height = right - left, top - bottom

    changed = usable & (width != 0) & (height != 0)
    body = frames[:, BODY_SLICE]
    origin = np.stack([left, bottom], axis=-1)[:, None]
    extent = np.where(changed[:, None], np.stack([width, height], axis=-1), 1.0)[:, None]
    present = (body[..., :1] != 0) & changed[:, None, None]
    result[:, BODY_SLICE] = np.where(present, (body - origin) / extent, body)


def _length_unit(frames: np.ndarray) -> np.ndarray:
    """Shoulder distance, else neck-nose distance, else NaN; shape (frames,)."""

    def distance(a: int, b: int) -> np.ndarray:
        both = (frames[:, a, 0] != 0) & (frames[:, b, 0] != 0)
        difference = frames[:, a] - frames[:, b]
        return np.where(both, np.sqrt((difference * difference).sum(axis=-1)), np.nan)

    shoulders = distance(LEFT_SHOULDER, RIGHT_SHOULDER)
    return np.where(np.isnan(shoulders), distance(NECK, NOSE), shoulders)


def _last_known(known: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Index of the latest known frame of the same clip up to each frame, -1 where there is none yet."""
    index = np.arange(len(known))
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    latest = np.maximum.accumulate(np.where(known, index, -1))
    return np.where(latest >= start, latest, -1)


def _normalise_hand(hand: np.ndarray, result: np.ndarray) -> None:
    present = hand != 0
    low = np.where(present, hand, np.inf).min(axis=1)
    high = np.where(present, hand, -np.inf).max(axis=1)
    seen = np.isfinite(low).all(axis=-1)
    low, high = np.where(seen[:, None], low, 0.0), np.where(seen[:, None], high, 0.0)

    size = high - low
    larger = size.max(axis=-1, keepdims=True)
    margin = _HAND_PADDING * larger + (larger - size) / 2
    start = (low - margin)[:, None]
    extent = (high + margin)[:, None] - start

    changed = seen[:, None, None] & (extent != 0).all(axis=-1, keepdims=True) & present[..., :1]
    result[:] = np.where(changed, (hand - start) / np.where(extent == 0, 1.0, extent), hand)

"""How each head spreads its attention: entropy, divergence from its neighbours, distance between frames.

The published network has no temporal encoding, so attention can follow time only where the content of the
frames does: the distance of a head is read against attention by content similarity with the same entropy.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from scipy.special import softmax
from tqdm import tqdm

from labtrail.statistics import bootstrap_mean, entropy, jensen_shannon

# Inverse temperatures of the content null, in units of one over the median squared distance of two frames.
_SHARPNESS = np.concatenate([[0.0], np.logspace(-2, 3, 63)])


class Weights(Protocol):
    """Attention of a split, clip by clip."""

    frames: np.ndarray
    heads: int

    @property
    def modules(self) -> Sequence[str]:
        """Names of the attention modules, encoder first."""
        ...

    def clip(self, index: int) -> dict[str, np.ndarray]:
        """Module -> weights (H, queries, T)."""
        ...


class HeadValues(NamedTuple):
    """One value for each clip, module and head; shape (clips, modules, heads), NaN where it has no meaning.

    Attributes:
        entropy: mean over queries of entropy / log T; 1 = uniform, 0 = one frame.
        divergence: mean Jensen-Shannon divergence from the module's other heads, in bits.
        divergence_null: the same with the other heads' frames in random order.
        distance: mean |query - key| in frames over that of uniform attention; encoder only.
        distance_null: the same for attention by content similarity with each query's entropy.
    """

    entropy: np.ndarray
    divergence: np.ndarray
    divergence_null: np.ndarray
    distance: np.ndarray
    distance_null: np.ndarray


def long_enough(frames: np.ndarray) -> np.ndarray:
    """Indices of the clips with at least two frames: one frame leaves attention no choice."""
    return np.flatnonzero(frames > 1)


def head_values(attention: Weights, features: Sequence[np.ndarray], clips: np.ndarray, seed: int) -> HeadValues:
    """The statistics of every head on some clips.

    Args:
        attention: the weights.
        features: content of the frames of each clip of the split, shape (T, d).
        clips: which clips; each with at least two frames.
        seed: of the random orders of the divergence's null.
    """
    shape = (len(clips), len(attention.modules), attention.heads)
    values = HeadValues(*(np.full(shape, np.nan) for _ in HeadValues._fields))
    generator = np.random.default_rng(seed)
    for row, clip in enumerate(tqdm(clips, desc="heads", unit="clip", leave=False, disable=None)):
        null = ContentNull(features[clip])
        weights = attention.clip(int(clip))
        for column, name in enumerate(attention.modules):
            layer_weights = weights[name]
            spread = entropy(layer_weights)
            values.entropy[row, column] = spread.mean(axis=1) / np.log(layer_weights.shape[-1])
            order = generator.permutation(layer_weights.shape[-1])
            values.divergence[row, column] = _divergence(layer_weights, layer_weights)
            values.divergence_null[row, column] = _divergence(layer_weights, layer_weights[:, :, order])
            if name.startswith("enc"):
                values.distance[row, column] = null.relative((layer_weights * null.gaps).sum(-1))
                values.distance_null[row, column] = null.relative(null.distance_at(spread))
    return values


def _divergence(weights: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean divergence of each head from the other heads, (H,); weights (H, Q, T)."""
    heads = len(weights)
    if heads == 1:
        return np.full(1, np.nan)
    first, second = np.triu_indices(heads, 1)
    pairs = jensen_shannon(weights[first], other[second]).mean(axis=1)
    sums = np.bincount(first, pairs, heads) + np.bincount(second, pairs, heads)
    return sums / (heads - 1)


class ContentNull:
    """Attention that depends on the similarity of frames only: softmax(-sharpness * squared distance).

    Attributes:
        gaps: |query - key| in frames, shape (T, T).
    """

    def __init__(self, features: np.ndarray) -> None:
        """``features``: content of the frames of one clip, shape (T, d), T >= 2."""
        frames = np.arange(len(features))
        self.gaps = np.abs(frames[:, None] - frames)
        squared = ((features[:, None] - features) ** 2).sum(-1)
        positive = squared[squared > 0]
        scale = np.median(positive) if positive.size else 1.0
        weights = softmax(-_SHARPNESS[:, None, None] * squared / scale, axis=-1)
        # From sharp to uniform, since interpolation wants rising entropies.
        self._entropies = entropy(weights)[::-1]
        self._distances = (weights * self.gaps).sum(-1)[::-1]

    def distance_at(self, entropies: np.ndarray) -> np.ndarray:
        """Expected distance of each query at the sharpness that gives it this entropy; (H, T) to (H, T)."""
        columns = [
            np.interp(entropies[:, query], self._entropies[:, query], self._distances[:, query])
            for query in range(entropies.shape[1])
        ]
        return np.stack(columns, axis=1)

    def relative(self, distances: np.ndarray) -> np.ndarray:
        """Mean over queries, (H, T) to (H,), in units of uniform attention's mean distance."""
        return distances.mean(axis=1) / self.gaps.mean()


def rollout(weights: dict[str, np.ndarray]) -> np.ndarray:
    """How much each input frame flows into the class query, shape (T,), sums to 1.

    Attention rollout (Abnar & Zuidema 2020) with equal shares for attention and residual path, continued
    through the decoder, whose query has no frame of its own: what stays on its residual path is left out.
    """
    encoder = [part.mean(axis=0) for name, part in weights.items() if name.startswith("enc")]
    decoder = [part.mean(axis=0)[0] for name, part in weights.items() if name.startswith("dec")]
    flow = np.eye(encoder[0].shape[-1])
    for mixing in encoder:
        flow = (mixing @ flow + flow) / 2
    query = np.zeros(len(flow))
    for mixing in decoder:
        query = (mixing + query) / 2
    return query / query.sum() @ flow


def head_table(
    epoch: int, modules: Sequence[str], values: HeadValues, untrained: HeadValues, resamples: int, seed: int
) -> pd.DataFrame:
    """One row per module, head and statistic, with bootstrap intervals over clips and a null.

    Columns: epoch, module, stack, layer, head, statistic, value, low, high, null, difference, difference_low,
    difference_high (of value - null, paired by clip), null_kind, clips.
    """
    nulls = {
        "entropy": (values.entropy, untrained.entropy, "the network before training"),
        "divergence": (values.divergence, values.divergence_null, "frames of the other heads in random order"),
        "distance": (values.distance, values.distance_null, "content similarity with the same entropy"),
    }
    tables = []
    for statistic, (observed, null, kind) in nulls.items():
        mean, difference = (bootstrap_mean(array, resamples, seed) for array in (observed, observed - null))
        table = pd.DataFrame(
            [(epoch, name, name[:3], int(name[4:]), head) for name in modules for head in range(observed.shape[2])],
            columns=["epoch", "module", "stack", "layer", "head"],
        ).assign(
            statistic=statistic,
            value=mean.value.ravel(),
            low=mean.low.ravel(),
            high=mean.high.ravel(),
            null=null.mean(axis=0).ravel(),
            difference=difference.value.ravel(),
            difference_low=difference.low.ravel(),
            difference_high=difference.high.ravel(),
            null_kind=kind,
            clips=len(observed),
        )
        tables.append(table.dropna(subset="value"))
    return pd.concat(tables, ignore_index=True)

"""From clips to packed batches: augmentation, order and packing, all derived from (seed, epoch)."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from projects.spoter import augment
from projects.spoter.clips import Clips
from projects.spoter.config import AugmentConfig
from projects.spoter.model import Layout
from projects.spoter.normalise import normalise
from projects.spoter.skeleton import FRAME_SIZE


class Inputs(NamedTuple):
    """A split as the network reads it, resident on one device.

    Attributes:
        frames: shape (N, 108), float32; the normalised frames of all clips, joined.
        lengths: shape (clips,), int64.
        starts: shape (clips,), int64; index of each clip's first frame.
        labels: shape (clips,), int64, on the device; classes counted from 0.
    """

    frames: Tensor
    lengths: np.ndarray
    starts: np.ndarray
    labels: Tensor


class Batch(NamedTuple):
    """Clips that are computed at once.

    Attributes:
        frames: shape (N, 108), packed.
        layout: where the clips lie.
        labels: shape (B,), int64.
        weights: shape (B,); share of each clip in the mean loss of its update.
        clips: shape (B,), int64; which clips of the split these are.
    """

    frames: Tensor
    layout: Layout
    labels: Tensor
    weights: Tensor
    clips: np.ndarray


def to_inputs(frames: np.ndarray, lengths: np.ndarray, labels: np.ndarray, device: torch.device) -> Inputs:
    """Normalises joined raw clips, (N, 54, 2) float64, and puts them on a device."""
    rows = normalise(frames, lengths).reshape(-1, FRAME_SIZE).astype(np.float32)
    starts = np.cumsum(lengths) - lengths
    return Inputs(torch.from_numpy(rows).to(device), lengths, starts, torch.from_numpy(labels).to(device))


def training_inputs(
    clips: Clips, labels: np.ndarray, config: AugmentConfig, seed: int, epoch: int, device: torch.device
) -> Inputs:
    """The train split of one epoch: augmented, normalised, with noise.

    Each clip has a generator of its own, so the result does not depend on order or number of processes.
    """
    augmented = [_augmented(clips.clip(index), config, _generator(seed, epoch, index)) for index in range(len(clips))]
    lengths = np.array([len(clip) for clip in augmented])
    inputs = to_inputs(np.concatenate(augmented), lengths, labels, device)
    noise = torch.Generator().manual_seed(_generator(seed, epoch, "noise").getrandbits(60))
    rows = torch.randn(inputs.frames.shape, generator=noise).mul_(config.noise).to(device)
    return inputs._replace(frames=inputs.frames + rows)


def _generator(*parts: object) -> random.Random:
    return random.Random("/".join(map(str, parts)))


def _augmented(clip: np.ndarray, config: AugmentConfig, generator: random.Random) -> np.ndarray:
    for _ in range(config.rounds):
        change = augment.draw(generator, config.probability)
        if change is not None:
            clip = augment.apply(change, clip, config.variant)
    if config.frame_drop:
        kept = [frame for frame in range(len(clip)) if generator.random() >= config.frame_drop]
        clip = clip[kept or [generator.randrange(len(clip))]]
    return clip


class Update(NamedTuple):
    """One rank's share of an optimizer step.

    Attributes:
        clips: shape (n,), int64; never empty, so that every rank takes part in every step.
        weights: shape (n,); 0 for clips that only keep a rank company at the end of an epoch.
        size: clips of the whole step, over all ranks.
    """

    clips: np.ndarray
    weights: np.ndarray
    size: int


def epoch_updates(clips: int, per_process: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Update]:
    """The updates of one epoch; over all ranks every clip has its weight exactly once.

    Args:
        clips: number of clips in the split.
        per_process: clips of an update in each process.
        seed, epoch: decide the order.
        rank, world: which process this is, of how many.

    Returns:
        As many updates on every rank; the weights of one update sum to ``world`` over all ranks, since
        gradients are averaged over ranks.
    """
    order = np.random.default_rng((seed, epoch)).permutation(clips)
    size = per_process * world
    updates = []
    for start in range(0, clips, size):
        chosen = order[start : start + size]
        weights = np.full(len(chosen), world / len(chosen))
        idle = -len(chosen) % world
        chosen = np.concatenate([chosen, np.resize(chosen, idle)])
        weights = np.concatenate([weights, np.zeros(idle)])
        updates.append(Update(chosen[rank::world], weights[rank::world], len(chosen) - idle))
    return updates


def batches(inputs: Inputs, update: Update, max_frames: int) -> Iterator[Batch]:
    """An update in passes of at most ``max_frames`` frames (or one clip), clips of like length together."""
    order = np.argsort(inputs.lengths[update.clips], kind="stable")
    for part in _within_budget(inputs.lengths[update.clips][order], max_frames):
        chosen = order[part]
        yield pack(inputs, update.clips[chosen], update.weights[chosen])


def passes(inputs: Inputs, max_frames: int) -> Iterator[Batch]:
    """Every clip of a split once, clips of like length together; ``max_frames`` as in ``batches``."""
    count = len(inputs.lengths)
    return batches(inputs, Update(np.arange(count), np.ones(count), count), max_frames)


def _within_budget(lengths: np.ndarray, max_frames: int) -> Iterator[slice]:
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > max_frames:
            yield slice(start, index)
            start, total = index, 0
        total += length
    yield slice(start, len(lengths))


def pack(inputs: Inputs, clips: np.ndarray, weights: np.ndarray) -> Batch:
    """The batch of the given clips, in the given order."""
    device = inputs.frames.device
    lengths = inputs.lengths[clips]
    if len(clips) == 1:
        start = int(inputs.starts[clips[0]])
        frames = inputs.frames[start : start + int(lengths[0])]
    else:
        first_row = np.repeat(inputs.starts[clips] - np.cumsum(lengths) + lengths, lengths)
        rows = torch.from_numpy(first_row + np.arange(lengths.sum()))
        frames = inputs.frames.index_select(0, rows.to(device))
    return Batch(
        frames,
        Layout.of(lengths.tolist(), device),
        inputs.labels[torch.from_numpy(clips).to(device)],
        torch.from_numpy(weights).to(device, inputs.frames.dtype),
        clips,
    )

"""Order, packing and augmentation: every clip once, and nothing depends on how work is shared."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from projects.spoter.batches import Inputs, Update, batches, epoch_updates, pack, training_inputs
from projects.spoter.clips import Clips
from projects.spoter.config import AugmentConfig, SyntheticConfig
from projects.spoter.synthetic import generate

CPU = torch.device("cpu")


def toy_inputs(lengths: list[int]) -> Inputs:
    """Frame r of clip c holds the number 1000 c + r in all its values."""
    rows = [1000.0 * clip + row for clip, length in enumerate(lengths) for row in range(length)]
    frames = torch.tensor(rows)[:, None].expand(-1, 108).contiguous()
    counts = np.array(lengths)
    return Inputs(frames, counts, np.cumsum(counts) - counts, torch.arange(len(lengths)))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 4), st.integers(0, 5))
def test_every_clip_has_its_weight_once(clips: int, per_process: int, world: int, epoch: int) -> None:
    ranks = [epoch_updates(clips, per_process, 3, epoch, rank, world) for rank in range(world)]
    assert len({len(updates) for updates in ranks}) == 1
    seen = []
    for step in zip(*ranks, strict=True):
        assert all(len(update.clips) for update in step)
        assert sum(update.weights.sum() for update in step) == pytest.approx(world)
        real = [
            clip for update in step for clip, weight in zip(update.clips, update.weights, strict=True) if weight > 0
        ]
        weights = {weight for update in step for weight in update.weights if weight > 0}
        assert len(weights) == 1
        assert {update.size for update in step} == {len(real)}
        seen += real
    assert sorted(seen) == list(range(clips))


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [int(clip) for update in epoch_updates(50, 4, seed, epoch) for clip in update.clips]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 60))
def test_batches_hold_the_frames_of_their_clips(lengths: list[int], budget: int) -> None:
    inputs = toy_inputs(lengths)
    chosen = np.random.default_rng(0).permutation(len(lengths))
    update = Update(chosen, np.arange(1.0, len(lengths) + 1), len(lengths))
    found = {}
    for batch in batches(inputs, update, budget):
        assert len(batch.clips) == 1 or len(batch.frames) <= budget
        padded = batch.layout.pad(batch.frames)
        torch.testing.assert_close(batch.layout.pack(padded), batch.frames, rtol=0, atol=0)
        for place, clip in enumerate(batch.clips):
            expected = torch.arange(lengths[clip]) + 1000.0 * clip
            torch.testing.assert_close(padded[place, : lengths[clip], 0], expected)
            assert (padded[place, lengths[clip] :] == 0).all()
            assert batch.labels[place] == clip
            found[int(clip)] = float(batch.weights[place])
    assert found == {int(clip): float(weight) for clip, weight in zip(update.clips, update.weights, strict=True)}


def test_single_clip_is_a_view_of_the_resident_frames() -> None:
    inputs = toy_inputs([3, 5])
    batch = pack(inputs, np.array([1]), np.ones(1))
    assert batch.frames.data_ptr() == inputs.frames[3:].data_ptr()


def small_clips() -> tuple[Clips, np.ndarray]:
    clips, labels = generate("train", SyntheticConfig(classes=2, train=6, frames=8))
    lengths = np.array([len(clip) for clip in clips])
    return Clips(np.concatenate(clips), lengths, labels, "", ""), labels


def test_augmentation_is_derived_from_seed_and_epoch() -> None:
    clips, labels = small_clips()
    config = AugmentConfig(variant="consistent", probability=0.9, rounds=3, frame_drop=0.3)
    one = training_inputs(clips, labels, config, 1, 2, CPU)
    same = training_inputs(clips, labels, config, 1, 2, CPU)
    other = training_inputs(clips, labels, config, 1, 3, CPU)
    assert torch.equal(one.frames, same.frames)
    assert one.frames.shape != other.frames.shape or not torch.equal(one.frames, other.frames)
    assert (one.lengths >= 1).all()
    assert one.lengths.sum() < clips.lengths.sum()


def test_without_augmentation_only_noise_is_left() -> None:
    clips, labels = small_clips()
    plain = training_inputs(clips, labels, AugmentConfig(probability=0, noise=0), 1, 2, CPU)
    noisy = training_inputs(clips, labels, AugmentConfig(probability=0, noise=0.01), 1, 2, CPU)
    assert (noisy.frames - plain.frames).std() == pytest.approx(0.01, rel=0.05)

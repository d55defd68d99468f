"""Schedules, accumulation and the parts of the loop that must not differ between protocols."""

import functools
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from labtrail.running.updater import Updater
from projects.spoter.batches import epoch_updates, to_inputs
from projects.spoter.config import ModelConfig, SyntheticConfig, TrainConfig
from projects.spoter.evaluate import predict, scores
from projects.spoter.model import Spoter
from projects.spoter.synthetic import generate
from projects.spoter.train import learning_rate, make_optimizer, train_epoch, update_loss


def test_constant_schedule() -> None:
    config = TrainConfig(learning_rate=1e-3)
    assert {learning_rate(config, epoch, 0.1) for epoch in (0, 10.5, 349)} == {1e-3}


def test_cosine_schedule_warms_up_and_ends_at_zero() -> None:
    config = TrainConfig(epochs=100, learning_rate=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(config, step / 10, 0.1) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (99, 100)
    assert rates == sorted(rates[:100]) + sorted(rates[100:], reverse=True)
    assert rates[550] == pytest.approx(0.5, abs=0.01)
    assert rates[-1] < 1e-4
    assert learning_rate(TrainConfig(schedule="cosine", warmup=0.0), 0, 1) == pytest.approx(1e-3)


@pytest.mark.parametrize("max_frames", [1, 40, 10_000])
def test_accumulated_update_equals_one_pass(max_frames: int) -> None:
    """The split of an update into passes changes rounding only."""
    accelerator = Accelerator(cpu=True)
    clips, labels = generate("train", SyntheticConfig(classes=3, train=10, frames=9))
    inputs = to_inputs(np.concatenate(clips), np.array([len(clip) for clip in clips]), labels, accelerator.device)
    inputs = inputs._replace(frames=inputs.frames.double())
    weights = []
    for frames in (10_000, max_frames):
        torch.manual_seed(0)
        model = Spoter(ModelConfig(layers=1, feed_forward=16, dropout=0.0), 3).double()
        config = TrainConfig(batch_size=7, max_frames=frames, learning_rate=0.1, clip_norm=1.0)
        plan = epoch_updates(10, 7, 0, 0)
        loss = functools.partial(update_loss, config.label_smoothing)
        updater = Updater(model, make_optimizer(model, config), loss, accelerator, clip_norm=config.clip_norm)
        result = train_epoch(updater, inputs, plan, [0.1, 0.1], config.max_frames, accelerator, "")
        weights.append((result["loss"], model.linear_class.weight.detach().clone()))
    assert weights[0][0] == pytest.approx(weights[1][0], rel=1e-6)
    torch.testing.assert_close(weights[0][1], weights[1][1], rtol=0, atol=1e-12)


def test_prediction_is_in_the_order_of_the_split() -> None:
    accelerator = Accelerator(cpu=True)
    clips, labels = generate("test", SyntheticConfig(classes=3, test=9, frames=9))
    inputs = to_inputs(np.concatenate(clips), np.array([len(clip) for clip in clips]), labels, accelerator.device)
    torch.manual_seed(0)
    model = Spoter(ModelConfig(layers=1, feed_forward=16), 3)
    one_by_one = predict(model, inputs, 3, 1, accelerator)
    at_once = predict(model, inputs, 3, 10_000, accelerator)
    np.testing.assert_allclose(one_by_one, at_once, atol=1e-5)


def test_scores() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]], dtype=np.float32))
    found = scores(logits, np.array([0, 2]))
    assert found["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.1)) / 2, rel=1e-5)
    assert (found["accuracy"], found["accuracy_top5"]) == (0.5, 1.0)

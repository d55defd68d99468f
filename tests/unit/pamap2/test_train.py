"""Statistics from training rows only, windows by index, accumulation, and scores against scikit-learn."""

import functools

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch.optim import SGD

from labtrail.running.updater import Updater
from projects.pamap2.config import ModelConfig, Pamap2Config, TrainConfig
from projects.pamap2.evaluate import predict, scores
from projects.pamap2.folds import Fold
from projects.pamap2.inputs import CHANNELS, COLUMNS, make_resident, rotated, transform
from projects.pamap2.model import FusionModel
from projects.pamap2.train import class_weights, one_cycle, train_epoch, update_loss

CPU = torch.device("cpu")
ROWS, WINDOW = 400, 32


def fold() -> Fold:
    rows = np.zeros(ROWS, dtype=bool)
    rows[:240] = True
    return Fold("x", np.arange(0, 200, 8), np.arange(260, 300, 20), np.arange(310, 360, 10), rows)


def values(seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).normal(3, 2, (ROWS, 52)).astype(np.float32)
    found[::7, 5] = np.nan
    return found


def labels() -> np.ndarray:
    return (np.arange(ROWS) // 25) % 3


def test_windows_are_the_rows_that_their_index_names() -> None:
    resident = make_resident(values(), labels(), fold(), WINDOW, CPU)
    raw, classes = resident.windows(np.array([3, 100]))
    expected = np.array(values()[:, COLUMNS])
    known = ~np.isnan(expected[100:132])
    np.testing.assert_array_equal(raw[1].numpy()[known], expected[100:132][known])
    assert classes.tolist() == labels()[[3, 100]].tolist()
    assert raw.isfinite().all()


def test_statistics_know_training_rows_only() -> None:
    other = values()
    other[240:] = 1e6
    one, two = (make_resident(data, labels(), fold(), WINDOW, CPU) for data in (values(), other))
    assert all(torch.equal(a, b) for a, b in zip(one.scale.means, two.scale.means, strict=True))
    raw, _ = one.windows(fold().train)
    for part in one.normalised(raw):
        flat = part.flatten(0, 1)
        torch.testing.assert_close(flat.mean(0), torch.zeros(flat.shape[1]), atol=1e-3, rtol=0)
        torch.testing.assert_close(flat.std(0), torch.ones(flat.shape[1]), atol=1e-2, rtol=0)
    filled = one.values[[7, 14], COLUMNS.index(5) if 5 in COLUMNS else 0]
    assert filled.isfinite().all()


def test_channels_do_not_see_how_a_sensor_is_scaled_and_rotation_keeps_lengths() -> None:
    raw = torch.randn(4, WINDOW, 28, generator=torch.Generator().manual_seed(0))
    shifted = raw.clone()
    shifted[..., 9:18] = shifted[..., 9:18] * 1.0 + 5.0
    torch.testing.assert_close(transform(raw)[1][..., :9], transform(shifted)[1][..., :9], atol=1e-4, rtol=1e-4)
    turned = rotated(raw, 30.0, torch.Generator().manual_seed(1))
    assert not torch.allclose(turned[..., :3], raw[..., :3])
    assert torch.equal(turned[..., 27:], raw[..., 27:])
    for first in range(0, 27, 3):
        part = slice(first, first + 3)
        torch.testing.assert_close(turned[..., part].norm(dim=-1), raw[..., part].norm(dim=-1), atol=1e-4, rtol=1e-4)
    assert rotated(raw, 0.0, torch.Generator()) is raw


def test_accumulated_passes_equal_one_large_batch() -> None:
    resident = make_resident(values(), labels(), fold(), WINDOW, CPU)
    found = []
    for batch, accumulation in ((24, 1), (6, 4)):
        config = Pamap2Config(
            model=ModelConfig(width=8, layers=2, dropout=0.0),
            train=TrainConfig(batch_size=batch, accumulation=accumulation, rotation_deg=0.0, epochs=1, clip_norm=100.0),
        )
        torch.manual_seed(0)
        model = FusionModel(config.model, CHANNELS, 3)
        even = Fold("x", fold().train[:24], fold().validation, fold().test, fold().train_rows)
        torch.manual_seed(1)
        optimizer, loss = SGD(model.parameters()), functools.partial(update_loss, config.train.label_smoothing)
        updater = Updater(model, optimizer, loss, Accelerator(cpu=True), clip_norm=config.train.clip_norm)
        train_epoch(model, updater, resident, even, config, 0)
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_half_precision_reaches_the_network() -> None:
    class Half:
        """What an Accelerator of precision bf16 does here; a process can have one precision only."""

        def autocast(self) -> torch.autocast:
            return torch.autocast("cpu", torch.bfloat16)

        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

        def clip_grad_norm_(self, *_: object) -> None: ...

    resident = make_resident(values(), labels(), fold(), WINDOW, CPU)
    config = Pamap2Config(model=ModelConfig(width=8, layers=2), train=TrainConfig(batch_size=24, epochs=1))
    model = FusionModel(config.model, CHANNELS, 3)
    types = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d):
            module.register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype))
    loss = functools.partial(update_loss, config.train.label_smoothing)
    optimizer = SGD(model.parameters(), lr=0.1)
    updater = Updater(model, optimizer, loss, Half(), clip_norm=1.0)  # ty: ignore[invalid-argument-type]
    train_epoch(model, updater, resident, fold(), config, 0)
    assert types == {torch.bfloat16}


def test_scores_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    logits, truth = generator.normal(size=(60, 4)), generator.integers(0, 3, 60)
    found = scores(logits, truth)
    guesses = logits.argmax(1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, guesses))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, guesses, labels=[0, 1, 2], average="macro"))
    chances = softmax(logits, axis=1)
    assert found["nll"] == pytest.approx(log_loss(truth, chances, labels=range(4)))
    assert found["brier"] == pytest.approx(((chances - np.eye(4)[truth]) ** 2).sum(1).mean())


def test_prediction_does_not_depend_on_its_batches() -> None:
    resident = make_resident(values(), labels(), fold(), WINDOW, CPU)
    torch.manual_seed(0)
    model = FusionModel(ModelConfig(width=8, layers=2), CHANNELS, 3)
    plain = Accelerator(cpu=True)
    together, shares = predict(model, resident, fold().test, plain)
    alone = np.concatenate(
        [predict(model, resident, fold().test[i : i + 1], plain)[0] for i in range(len(fold().test))]
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert shares is not None


def test_class_weights_average_to_one_over_windows() -> None:
    classes = torch.tensor([0, 0, 0, 2])
    weights = class_weights(classes, 4)
    assert weights.tolist() == pytest.approx([4 / 6, 0, 2, 0])
    assert float(weights[classes].mean()) == pytest.approx(1.0)


def test_rate_rises_falls_and_ends_at_nothing() -> None:
    config = TrainConfig(epochs=10, learning_rate=1.0)
    rates = [one_cycle(config, epoch) for epoch in (0, 1, 3, 6, 9.999)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[2] > rates[3] > rates[4]
    assert rates[4] < 1e-4

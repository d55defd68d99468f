"""Temperature against brute force, noise that is the same for all, and the fifteen subsets."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from scipy.special import log_softmax

from projects.pamap2.config import ModelConfig
from projects.pamap2.evaluate import predict
from projects.pamap2.inputs import CHANNELS, make_resident
from projects.pamap2.model import FusionModel
from projects.pamap2.robustness import SUBSETS, fit_temperature, noisy_logits
from tests.unit.pamap2.test_train import CPU, WINDOW, fold, labels, values


def test_there_are_fifteen_subsets_and_the_first_is_whole() -> None:
    assert len(set(SUBSETS)) == 15
    assert SUBSETS[0] == (True, True, True, True)


def test_temperature_undoes_a_scale_and_is_the_best_of_a_grid() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4000, 3))
    chances = np.exp(log_softmax(logits, axis=1))
    truth = np.array([generator.choice(3, p=row) for row in chances])
    assert fit_temperature(logits, truth) == pytest.approx(1.0, abs=0.1)
    assert fit_temperature(5 * logits, truth) == pytest.approx(5 * fit_temperature(logits, truth), rel=1e-3)
    rows = np.arange(len(truth))
    losses = {t: -log_softmax(3 * logits / t, axis=1)[rows, truth].mean() for t in np.linspace(1, 6, 101)}
    assert fit_temperature(3 * logits, truth) == pytest.approx(min(losses, key=lambda t: losses[t]), abs=0.06)


def test_noise_depends_on_seed_and_level_only() -> None:
    resident = make_resident(values(), labels(), fold(), WINDOW, CPU)
    torch.manual_seed(0)
    model = FusionModel(ModelConfig(width=8, layers=2, fusion="late", missing="masked_attention"), CHANNELS, 3)
    whole, plain = SUBSETS[0], Accelerator(cpu=True)
    quiet = noisy_logits(model, resident, fold().test, plain, whole, 0.0, seed=1)
    np.testing.assert_array_equal(quiet, predict(model, resident, fold().test, plain)[0])
    one, same, other = (noisy_logits(model, resident, fold().test, plain, whole, 0.5, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    little = noisy_logits(model, resident, fold().test, plain, whole, 1e-6, seed=1)
    np.testing.assert_allclose(little, quiet, atol=1e-3)

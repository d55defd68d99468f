"""The network: exact under padding, blind to order, unchanged by being observed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from projects.spoter.config import ModelConfig
from projects.spoter.model import Dropout, Layout, Spoter

CPU = torch.device("cpu")
SMALL = ModelConfig(layers=2, feed_forward=64)


@pytest.fixture
def model() -> Spoter:
    torch.manual_seed(0)
    return Spoter(SMALL, 10).double().eval()


def clips(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, 108, generator=generator, dtype=torch.float64) for length in lengths]


def test_order_of_frames_does_not_matter(model: Spoter) -> None:
    (clip,) = clips([20])
    layout = Layout.of([20], CPU)
    with torch.inference_mode():
        expected = model(clip, layout)
        for order in (torch.arange(19, -1, -1), torch.randperm(20)):
            torch.testing.assert_close(model(clip[order], layout), expected, rtol=0, atol=1e-12)
        twice = model(clip.repeat(2, 1), Layout.of([40], CPU))
    torch.testing.assert_close(twice, expected, rtol=0, atol=1e-12)


def test_packed_batch_equals_single_clips_in_value_and_gradient(model: Spoter) -> None:
    lengths = [7, 1, 12, 12]
    parts = clips(lengths)
    packed = torch.cat(parts).requires_grad_()
    logits = model(packed, Layout.of(lengths, CPU))
    logits.square().sum().backward()
    batch = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for place, part in enumerate(parts):
        single = model(part, Layout.of([len(part)], CPU))
        single.square().sum().backward()
        torch.testing.assert_close(logits[place], single[0], rtol=0, atol=1e-12)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(batch[name], parameter.grad, rtol=1e-9, atol=1e-11)


def test_observing_leaves_the_output_bit_identical(model: Spoter) -> None:
    model.float()
    lengths = np.random.default_rng(0).integers(1, 30, 64).tolist()
    packed = torch.cat(clips(lengths)).float()
    seen: dict[str, Tensor] = {}
    with torch.inference_mode():
        plain = model(packed, Layout.of(lengths, CPU))
        observed = model(packed, Layout.of(lengths, CPU), seen.__setitem__)
    assert torch.equal(plain, observed)
    assert sorted(seen) == ["dec_0", "dec_1", "enc_0", "enc_1"]
    for name, weights in seen.items():
        assert weights.shape == (64, 9, 1 if name.startswith("dec") else max(lengths), max(lengths))
        for place, length in enumerate(lengths):
            assert weights[place, ..., length:].eq(0).all()
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_decoder_starts_as_copies_and_encoder_does_not() -> None:
    layers = Spoter(ModelConfig(layers=3), 5).transformer
    first, *others = (layer.state_dict() for layer in layers.decoder.layers)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)
    first, *others = (layer.state_dict() for layer in layers.encoder.layers)
    assert not any(torch.equal(first["linear1.weight"], other["linear1.weight"]) for other in others)


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_has_its_rate_and_mean(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Dropout(rate).train()
    x = torch.ones(401, 499, dtype=dtype, requires_grad=True)
    y = layer(x)
    dropped = (y == 0).double().mean().item()
    assert dropped == pytest.approx(rate, abs=0.005)
    assert y.double().mean().item() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())
    kept = (y != 0).double().detach()
    # Neighbours come from one random integer: they must be as independent as any.
    for shift in (1, 2, 3):
        pairs = (kept.flatten()[shift:] * kept.flatten()[:-shift]).mean().item()
        assert pairs == pytest.approx((1 - rate) ** 2, abs=0.006)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_follows_the_seed() -> None:
    layer, x = Dropout(0.3).train(), torch.ones(1000)
    torch.manual_seed(5)
    one = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), one)
    assert not torch.equal(layer(x), one)

"""Fusions: a masked modality counts for exactly nothing, folds change nothing, options belong to their fusion."""

from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from projects.pamap2.config import Fusion, ModelConfig, Pamap2Config
from projects.pamap2.inputs import CHANNELS
from projects.pamap2.model import FusionModel

FUSIONS = get_args(Fusion)
MASKING = [(fusion, "masked_attention") for fusion in ("late", "hybrid", "gated")]
REPLACING = [(fusion, missing) for fusion in FUSIONS for missing in ("learned_token", "zero")]


def model(**options: object) -> FusionModel:
    torch.manual_seed(0)
    return FusionModel(ModelConfig.model_validate({"width": 8, "layers": 2, **options}), CHANNELS, 5).eval()


def windows(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(6, 64, size, generator=generator) for size in CHANNELS]


def present(*there: bool) -> Tensor:
    return torch.tensor([there]).expand(6, -1)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("encoder", ["cnn", "lstm", "transformer"])
def test_every_fusion_runs_with_every_encoder(fusion: str, encoder: str) -> None:
    out = model(fusion=fusion, encoder=encoder)(windows(), present(True, True, True, True))
    assert out.logits.shape == (6, 5)
    assert out.logits.isfinite().all()
    if out.shares is not None:
        torch.testing.assert_close(out.shares.sum(1), torch.ones(6))


@pytest.mark.parametrize(("fusion", "missing"), MASKING + REPLACING)
def test_contents_of_a_masked_modality_change_nothing(fusion: str, missing: str) -> None:
    network, one, other = model(fusion=fusion, missing=missing), windows(), windows()
    other[1] = torch.full_like(other[1], 1e30)
    other[3] = torch.full_like(other[3], float("nan"))
    there = present(True, False, True, False)
    with torch.inference_mode():
        first, second = (network(several, there) for several in (one, other))
        whole = network(one, present(True, True, True, True))
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.logits, whole.logits)
    if missing == "masked_attention":
        assert first.shares is not None
        assert first.shares[:, [1, 3]].eq(0).all()


def test_zero_and_mean_stand_for_a_missing_modality_as_they_say() -> None:
    zero, mean = model(fusion="early", missing="zero"), model(fusion="early", missing="mean_impute")
    means, deviations = [torch.full((size,), 6.0) for size in CHANNELS], [torch.full((size,), 2.0) for size in CHANNELS]
    zero.set_normalization(means, deviations)
    there = present(True, True, False, True)
    for network, value in ((zero, -3.0), (mean, 0.0)):
        written = windows()
        written[2] = torch.full_like(written[2], value)
        with torch.inference_mode():
            expected = network(written, present(True, True, True, True)).logits
            assert torch.equal(network(windows(), there).logits, expected)


@pytest.mark.parametrize("fusion", [fusion for fusion in FUSIONS if fusion != "early"])
def test_folds_of_modalities_change_nothing(fusion: str) -> None:
    found = []
    for size in range(5):
        with torch.inference_mode():
            out = model(fusion=fusion, modality_fold_size=size)(windows(), present(True, True, True, True))
        found.append(out.logits)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"fusion": "late", "heads": 4}, "heads belongs to hybrid; fusion late has no such option"),
        ({"fusion": "hybrid", "rank": 4}, "rank belongs to low_rank"),
        ({"fusion": "hybrid", "width": 10}, "width 10 is not a multiple of heads 4"),
        ({"fusion": "tensor", "missing": "masked_attention"}, "masked_attention needs late or hybrid or gated"),
    ],
)
def test_options_of_another_fusion_are_errors(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ModelConfig.model_validate(options)


def test_attention_over_modalities_means_something() -> None:
    """Weights over tokens depend on what the tokens hold; over one pooled key they would be constant."""
    with torch.inference_mode():
        shares = model(fusion="hybrid")(windows(), present(True, True, True, True)).shares
    assert shares is not None
    assert shares.std(dim=0).max() > 1e-4


@pytest.mark.parametrize(("fusion", "missing"), [("hybrid", "masked_attention"), ("late", "none"), ("early", "none")])
def test_a_dedicated_model_reads_its_modalities_and_nothing_else(fusion: str, missing: str) -> None:
    network = model(fusion=fusion, missing=missing, modalities="ankle,hand")
    one, other = windows(), windows()
    other[1], other[3] = (torch.full_like(other[index], float("nan")) for index in (1, 3))
    there = present(True, True, True, True)
    first, second = network(one, there), network(other, there)
    assert torch.equal(first.logits, second.logits)
    channels = {name: one for name, one in network.named_parameters() if name.endswith("body.0.weight")}
    assert [channel.shape[1] for channel in channels.values()] == ([22] if fusion == "early" else [11, 11])
    if first.shares is not None:
        assert first.shares[:, [1, 3]].eq(0).all()
        torch.testing.assert_close(first.shares.sum(1), torch.ones(6))


def test_modalities_are_one_config_in_any_order_and_never_none() -> None:
    one = ModelConfig.model_validate({"modalities": "ankle, hand"})
    assert one == ModelConfig.model_validate({"modalities": ["hand", "ankle"]})
    assert (one.modalities, one.dedicated) == (("hand", "ankle"), True)
    for wrong in ("", "hand,hand", "wrist"):
        with pytest.raises(ValidationError):
            ModelConfig.model_validate({"modalities": wrong})


def test_a_planned_step_is_not_compiled() -> None:
    with pytest.raises(ValidationError, match=r"remat\.memory and train\.compile"):
        Pamap2Config.model_validate({"train": {"compile": True}, "remat": {"memory": 0.5}})

"""The numbers of the published distillation losses, reproduced: tests/golden/fixtures/distill (see its README)."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from projects.distill import losses
from projects.distill.adapters import Paraphraser, Translator
from tests.workspace import FIXTURES

# Relative to the size of the reference, value and gradient alike.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
# Where student and teacher agree, or one pair is all there is, the truth is 0: then terms of size 1 have to cancel.
ZERO = ("equal", "batch_of_two")
ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-7}
# The float64 reference forms 1 + exp(rho) first, which costs it four digits at rho = -12.
LOOSER = {("vid", "wide_variance", torch.float64): 1e-11}

Inputs = Mapping[str, Tensor]
Loss = Callable[[Inputs, Mapping[str, float]], Tensor]


def stages(inputs: Inputs, who: str) -> list[Tensor]:
    return [inputs[name] for name in sorted(inputs) if name.startswith(who)]


def decoupled(inputs: Inputs, given: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    return losses.decoupled_losses(inputs["student_logits"], inputs["teacher_logits"], inputs["labels"], given["T"])


def network(kind: type[Translator], inputs: Inputs, prefix: str, features: Tensor) -> Translator:
    weights = {name.removeprefix(prefix): one for name, one in inputs.items() if name.startswith(prefix)}
    made = kind(features.shape[1], len(weights["conv1.weight"])).to(features.dtype)
    for name, one in weights.items():
        place, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(place), leaf, torch.nn.Parameter(one.detach()))
    return made


LOSSES: dict[tuple[str, str], Loss] = {
    ("kd", "kd"): lambda i, h: losses.logit_loss(i["student_logits"], i["teacher_logits"], h["T"]),
    ("logitstd", "kd_std"): lambda i, h: losses.standardised_logit_loss(
        i["student_logits"], i["teacher_logits"], h["T"]
    ),
    ("dkd", "tckd"): lambda i, h: decoupled(i, h)[0],
    ("dkd", "nckd"): lambda i, h: decoupled(i, h)[1],
    ("dkd", "dkd"): lambda i, h: h["alpha"] * decoupled(i, h)[0] + h["beta"] * decoupled(i, h)[1],
    ("at", "at_code"): lambda i, _h: losses.attention_loss(stages(i, "student"), stages(i, "teacher"), "code"),
    ("at", "at_paper"): lambda i, _h: losses.attention_loss(stages(i, "student"), stages(i, "teacher"), "paper"),
    ("fitnet", "hint"): lambda i, _h: losses.hint_loss(i["student_projected"], i["teacher"]),
    ("nst", "nst"): lambda i, _h: losses.neuron_selectivity_loss(i["student"], i["teacher"]),
    ("rkd", "distance"): lambda i, _h: losses.relation_distance_loss(i["student"], i["teacher"]),
    ("rkd", "angle"): lambda i, _h: losses.relation_angle_loss(i["student"], i["teacher"]),
    ("sp", "sp"): lambda i, _h: losses.similarity_loss(i["student"], i["teacher"]),
    ("vid", "vid"): lambda i, _h: losses.variational_loss(i["mean"], i["teacher"], i["rho"]),
}


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "distill" / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def part(name: str, case: str, kind: str) -> dict[str, np.ndarray]:
    prefix = f"{case}__{kind}__"
    return {key.removeprefix(prefix): one for key, one in arrays(name).items() if key.startswith(prefix)}


def cases() -> Iterator[tuple[str, str, str]]:
    for name, loss in [*LOSSES, ("factor_transfer", "factor"), ("factor_transfer", "recon")]:
        for case in map(str, arrays(name)["cases"]):
            if loss in part(name, case, "out"):
                yield name, case, loss


def tensors(name: str, case: str, dtype: torch.dtype) -> dict[str, Tensor]:
    found = {key: torch.from_numpy(one) for key, one in part(name, case, "in").items()}
    return {key: one.to(dtype).requires_grad_() if one.is_floating_point() else one for key, one in found.items()}


def factor_value(case: str, loss: str, inputs: dict[str, Tensor]) -> Tensor:
    """The losses of factor transfer, where a case may hold whole networks; their weights become the inputs."""
    if case == "factor_net":
        own = network(Translator, inputs, "translator.", inputs["student"])
        given = network(Paraphraser, inputs, "paraphraser.", inputs["teacher"])
        inputs |= {f"translator.{name}": one for name, one in own.named_parameters()}
        return losses.factor_loss(own(inputs["student"]), given(inputs["teacher"]))
    if case == "paraphraser_net":
        made = network(Paraphraser, inputs, "paraphraser.", inputs["teacher"])
        assert isinstance(made, Paraphraser)
        inputs |= {f"paraphraser.{name}": one for name, one in made.named_parameters()}
        return losses.reconstruction_loss(made.reconstruct(inputs["teacher"]), inputs["teacher"])
    if loss == "recon":
        return losses.reconstruction_loss(inputs["reconstruction"], inputs["teacher"])
    return losses.factor_loss(inputs["student_factor"], inputs["teacher_factor"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("name", "case", "loss"), list(cases()), ids=str)
def test_value_and_gradient_are_those_of_the_reference(name: str, case: str, loss: str, dtype: torch.dtype) -> None:
    inputs = tensors(name, case, dtype)
    if name == "factor_transfer":
        value = factor_value(case, loss, inputs)
    else:
        value = LOSSES[name, loss](inputs, {key: one.item() for key, one in part(name, case, "hp").items()})
    assert value.dtype == dtype
    tolerance = LOOSER.get((name, case, dtype), TOLERANCE[dtype])
    rounding = ROUNDING[dtype] if case in ZERO else 0.0
    expected = float(part(name, case, "out")[loss])
    assert abs(value.item() - expected) <= max(tolerance * abs(expected), rounding)
    value.backward()
    gradients = part(name, case, f"grad__{loss}")
    for key, reference in gradients.items():
        found = inputs[key].grad
        assert found is not None
        error = float(np.linalg.norm(found.double().numpy() - reference))
        assert error <= max(tolerance * float(np.linalg.norm(reference)), rounding), key
    for key, one in inputs.items():
        if key.startswith("teacher") and key not in gradients and case != "paraphraser_net":
            assert one.grad is None or not one.grad.any(), "a gradient reaches the teacher"


def test_the_parts_of_one_sample_add_up_to_its_divergence() -> None:
    for case in ("few", "many"):
        found = part("dkd", case, "persample")
        given = tensors("dkd", case, torch.float64)
        for row, (tckd, nckd, kd, share) in enumerate(
            zip(*(found[k] for k in ("tckd", "nckd", "kd", "p_t")), strict=True)
        ):
            one = {key: tensor[row : row + 1] for key, tensor in given.items()}
            own = [value.item() for value in decoupled(one, {"T": 4.0})]
            assert own == pytest.approx([tckd, nckd], rel=1e-12)
            whole = losses.logit_loss(one["student_logits"], one["teacher_logits"], 4.0).item()
            assert whole == pytest.approx(kd, rel=1e-12)
            assert own[0] + (1 - share) * own[1] == pytest.approx(whole, rel=1e-12)

"""Losses: what must not change them, finite wherever half precision goes, right derivatives."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from projects.distill import losses

B = 6
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
Pair = Callable[[Tensor, Tensor], Tensor]

LOGITS: dict[str, Pair] = {
    "logit": lambda s, t: losses.logit_loss(s, t, 4.0),
    "logitstd": lambda s, t: losses.standardised_logit_loss(s, t, 2.0),
    "tckd": lambda s, t: losses.decoupled_losses(s, t, LABELS, 4.0)[0],
    "nckd": lambda s, t: losses.decoupled_losses(s, t, LABELS, 4.0)[1],
}
ROWS: dict[str, Pair] = {
    "distance": losses.relation_distance_loss,
    "angle": losses.relation_angle_loss,
    "similarity": losses.similarity_loss,
}
MAPS: dict[str, Pair] = {
    "attention": lambda s, t: losses.attention_loss([s], [t], "code"),
    "attention-paper": lambda s, t: losses.attention_loss([s], [t], "paper"),
    "nst": losses.neuron_selectivity_loss,
    "factor": losses.factor_loss,
    "hint": losses.hint_loss,
    "similarity": losses.similarity_loss,
    "vid": lambda s, t: losses.variational_loss(s, t, torch.zeros(s.shape[1], dtype=s.dtype)),
}
SHAPES = [((B, 4), LOGITS), ((B, 8), ROWS), ((B, 5, 4, 4), MAPS)]
ALL = [pytest.param(shape, loss, id=name) for shape, group in SHAPES for name, loss in group.items()]


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return one, other


def rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize(("shape", "loss"), ALL)
def test_derivatives_are_those_of_finite_differences(shape: tuple[int, ...], loss: Pair) -> None:
    student, teacher = pair(shape)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_(), atol=1e-6)


@pytest.mark.parametrize(("shape", "loss"), ALL)
def test_no_gradient_reaches_the_teacher(shape: tuple[int, ...], loss: Pair) -> None:
    student, teacher = pair(shape)
    loss(student.requires_grad_(), teacher.requires_grad_()).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


DEGENERATE = {
    "zeros": torch.zeros_like,
    "a zero sample": lambda x: torch.cat([torch.zeros_like(x[:1]), x[1:]]),
    "duplicate rows": lambda x: torch.cat([x[:1], x[:1], x[2:]]),
    "all rows alike": lambda x: x[:1].expand_as(x),
    "large": lambda x: x.sign() * 6e4,
    "small": lambda x: x * 1e-4,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize(("shape", "loss"), ALL)
def test_every_loss_and_gradient_is_finite(
    shape: tuple[int, ...], loss: Pair, kind: str, side: str, dtype: torch.dtype
) -> None:
    student, teacher = (one.to(dtype) for one in pair(shape))
    student = DEGENERATE[kind](student).clone() if side != "teacher" else student
    teacher = DEGENERATE[kind](teacher) if side != "student" else teacher
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite()
    value.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def old_distance(x: Tensor) -> Tensor:
    """How the users' RKD took distances: Gram matrix, clamp and root, all in the precision of the features."""
    squares = x.square().sum(1)
    return (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()


def test_the_old_relation_loss_gave_nan_gradients_in_half_precision_and_this_one_does_not() -> None:
    student, teacher = (one.half() for one in pair((B, 8)))
    student.requires_grad_()
    (old_distance(student) / old_distance(student).mean() - old_distance(teacher)).square().mean().backward()
    assert student.grad is not None
    assert student.grad.isnan().any()
    (own,) = torch.autograd.grad(losses.relation_distance_loss(student, teacher), student)
    assert own.isfinite().all()
    assert own.abs().sum() > 0


@given(st.integers(0, 1000))
def test_relations_survive_rotation_scale_and_shift(seed: int) -> None:
    student, teacher = pair((B, 8), seed)
    moved = 3 * student @ rotation(8) + 7
    for loss in (losses.relation_distance_loss, losses.relation_angle_loss):
        torch.testing.assert_close(loss(moved, teacher), loss(student, teacher), rtol=1e-11, atol=1e-14)


@given(st.integers(0, 1000))
def test_maps_survive_what_their_papers_say(seed: int) -> None:
    student, teacher = pair((B, 5, 4, 4), seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    scale = torch.rand(B, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.5
    for form in ("code", "paper"):
        same = losses.attention_loss([student], [teacher], form)
        changed = losses.attention_loss([-student[:, order] * scale], [teacher], form)
        torch.testing.assert_close(changed, same, rtol=1e-12, atol=1e-15)
    same = losses.neuron_selectivity_loss(student, teacher)
    torch.testing.assert_close(losses.neuron_selectivity_loss(student[:, order], teacher), same, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        losses.factor_loss(student * scale, teacher), losses.factor_loss(student, teacher), rtol=1e-12, atol=1e-15
    )
    torch.testing.assert_close(
        losses.similarity_loss(-2 * student, teacher), losses.similarity_loss(student, teacher), rtol=1e-11, atol=1e-15
    )


@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_logits_survive_shifts_and_standardised_ones_also_scales(seed: int, temperature: float) -> None:
    student, teacher = pair((B, 4), seed)
    shift = torch.arange(B, dtype=torch.float64)[:, None]
    same = losses.logit_loss(student, teacher, temperature)
    torch.testing.assert_close(losses.logit_loss(student + shift, teacher, temperature), same, rtol=1e-10, atol=1e-14)
    scaled = losses.logit_loss(student / temperature, teacher / temperature, 1.0) * temperature**2
    torch.testing.assert_close(scaled, same, rtol=1e-12, atol=1e-15)
    std = losses.standardised_logit_loss(student, teacher, temperature)
    moved = losses.standardised_logit_loss(3 * student + shift, teacher, temperature)
    torch.testing.assert_close(moved, std, rtol=1e-5, atol=1e-12)


def test_only_the_other_classes_move_the_second_part() -> None:
    student, teacher = pair((B, 4))
    student.requires_grad_()
    losses.decoupled_losses(student, teacher, LABELS, 4.0)[1].backward()
    assert student.grad is not None
    assert student.grad[torch.arange(B), LABELS].eq(0).all()


def test_of_two_sizes_the_larger_map_is_pooled() -> None:
    large, small = pair((2, 3, 8, 8))[0], pair((2, 3, 4, 4))[1]
    pooled = torch.nn.functional.adaptive_avg_pool2d(large, 4)
    for one, other in ((large, small), (small, large)):
        same = (pooled, small) if one is large else (small, pooled)
        torch.testing.assert_close(losses.attention_loss([one], [other]), losses.attention_loss([same[0]], [same[1]]))
        torch.testing.assert_close(losses.neuron_selectivity_loss(one, other), losses.neuron_selectivity_loss(*same))

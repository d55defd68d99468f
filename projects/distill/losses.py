"""What a student can learn from a teacher, as pure functions of tensors.

Every loss is unweighted, lets gradients flow to the student only, and computes in float32 at least, outside autocast:
in half precision squares overflow, and the guards of small denominators vanish. Divergences of logits, which are small
and cancel, are summed in float64. Norms are taken of rescaled values,
so that large activations stay finite; a row of zeros has no direction and gives no gradient.

Shape suffixes: B samples, C channels, H and W pixels, K classes, D features.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_STANDARDISED_EPS = 1e-7
_LEAST_VARIANCE = 1e-5
_LEAST_DISTANCE = 1e-6


def _full_precision(loss: Callable[..., Any]) -> Callable[..., Any]:
    """The loss outside autocast, with half-precision inputs cast to float32."""

    def raised(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16):
            return value.float()
        return [raised(element) for element in value] if isinstance(value, list | tuple) else value

    @functools.wraps(loss)
    def wrapped(first: Any, *others: Any, **options: Any) -> Any:
        device = (first if isinstance(first, Tensor) else first[0]).device.type
        with torch.autocast(device, enabled=False):
            return loss(raised(first), *map(raised, others), **options)

    return wrapped


def unit(x: Tensor) -> Tensor:
    """Vectors (..., D) of length 1; zeros stay zeros, without a gradient."""
    largest = x.detach().abs().amax(-1, keepdim=True)
    there = largest > 0
    scaled = x / torch.where(there, largest, 1.0)
    lengths = torch.where(there, torch.linalg.vector_norm(scaled, dim=-1, keepdim=True), 1.0)
    return torch.where(there, scaled / lengths, 0.0)


@_full_precision
def logit_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Softened Kullback-Leibler divergence, T^2 / B sum p_t ln(p_t / p_s) (Hinton et al. 2015).

    Args:
        student_BK, teacher_BK: logits.
        temperature: T > 0.
    """
    student_log_BK, teacher_log_BK = (
        (z.double() / temperature).log_softmax(1) for z in (student_BK, teacher_BK.detach())
    )
    return temperature**2 * F.kl_div(student_log_BK, teacher_log_BK, reduction="batchmean", log_target=True).to(
        student_BK.dtype
    )


@_full_precision
def standardised_logit_loss(student_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """``logit_loss`` of logits standardised row by row (Sun et al. 2024); arguments as there."""
    student_z_BK, teacher_z_BK = (_standardised(z.double()) for z in (student_BK, teacher_BK))
    return logit_loss(student_z_BK, teacher_z_BK, temperature).to(student_BK.dtype)


def _standardised(z_BK: Tensor) -> Tensor:
    deviation = z_BK.std(1, keepdim=True)
    standardised = (z_BK - z_BK.mean(1, keepdim=True)) / (_STANDARDISED_EPS + deviation)
    # A constant row has no direction: its derivative, 1 / 1e-7, would only overflow.
    return torch.where(deviation > 0, standardised, 0.0)


@_full_precision
def decoupled_losses(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Target-class and non-target-class parts of the softened divergence, TCKD and NCKD (Zhao et al. 2022, eq. 6).

    Args:
        student_BK, teacher_BK: logits of K > 2 classes; for two, the second part is 0 whatever they are.
        labels_B: classes.
        temperature: T > 0.

    Returns:
        Both, with the factor T^2 / B.
    """
    student_parts, teacher_parts = (
        _decoupled(z.double() / temperature, labels_B) for z in (student_BK, teacher_BK.detach())
    )
    scale = temperature**2
    first, second = (
        scale * F.kl_div(student_part, teacher_part, reduction="batchmean", log_target=True).to(student_BK.dtype)
        for student_part, teacher_part in zip(student_parts, teacher_parts, strict=True)
    )
    return first, second


def _decoupled(z_BK: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of (p_y, 1 - p_y), shape (B, 2), and of the other classes among themselves, (B, K - 1)."""
    target_B1 = labels_B[:, None]
    columns = torch.arange(z_BK.shape[1] - 1, device=z_BK.device)
    others = z_BK.gather(1, columns + (columns >= target_B1))
    # 1 - p_y as the sum of the others: the difference would lose everything where p_y is close to 1.
    two = torch.stack([z_BK.gather(1, target_B1)[:, 0], others.logsumexp(1)], dim=1)
    return two.log_softmax(1), others.log_softmax(1)


@_full_precision
def hint_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of a projected student feature and the teacher's, same shapes (Romero et al. 2015)."""
    return F.mse_loss(projected, teacher.detach())


@_full_precision
def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], form: str = "code") -> Tensor:
    """Distance of spatial attention maps, summed over stages (Zagoruyko & Komodakis 2017).

    A map is the mean over channels of squared activations, of length 1 per sample; of two sizes the larger is pooled.

    Args:
        student, teacher: stages of shape (B, C, H, W); channels may differ.
        form: ``code``, the mean squared difference as in the authors' program; ``paper``, the mean over samples of the
            norm of the difference, as in their eq. 2.
    """
    terms = []
    for student_map, teacher_map in zip(student, teacher, strict=True):
        difference = torch.sub(*(_attention_map(f) for f in _same_size(student_map, teacher_map.detach())))
        terms.append(difference.square().mean() if form == "code" else difference.norm(dim=1).mean())
    return torch.stack(terms).sum()


def _attention_map(f_BCHW: Tensor) -> Tensor:
    largest = f_BCHW.detach().abs().amax((1, 2, 3), keepdim=True)
    scaled = f_BCHW / torch.where(largest > 0, largest, 1.0)
    return unit(scaled.square().mean(1).flatten(1))


def _same_size(first: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The larger map pooled to the smaller one's height and width."""
    height, width = min(first.shape[2], other.shape[2]), min(first.shape[3], other.shape[3])
    pooled, other_pooled = (
        x if x.shape[2:] == (height, width) else F.adaptive_avg_pool2d(x, (height, width)) for x in (first, other)
    )
    return pooled, other_pooled


@_full_precision
def neuron_selectivity_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between channel maps, kernel <v, w>^2 (Huang & Wang 2017, eq. 7).

    Invariant to permutations of channels; channels may differ, and of two sizes the larger map is pooled.
    """
    student_maps, teacher_maps = _same_size(student_BCHW, teacher_BCHW.detach())
    s, t = unit(student_maps.flatten(2)), unit(teacher_maps.flatten(2))
    return _kernel_mean(t, t) + _kernel_mean(s, s) - 2 * _kernel_mean(s, t)


def _kernel_mean(v_BCN: Tensor, w_BCN: Tensor) -> Tensor:
    return torch.bmm(v_BCN, w_BCN.transpose(1, 2)).square().mean()


@_full_precision
def relation_distance_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Smooth L1 of pairwise distances in units of their mean, RKD-D (Park et al. 2019, eq. 6); widths may differ."""
    student_distances, teacher_distances = _relative_distances(student_BD), _relative_distances(teacher_BD.detach())
    return F.smooth_l1_loss(student_distances, teacher_distances)


def _relative_distances(x_BD: Tensor) -> Tensor:
    count = len(x_BD)
    apart = ~torch.eye(count, dtype=torch.bool, device=x_BD.device)
    difference = x_BD[None] - x_BD[:, None]
    largest = difference.detach().abs().max()
    scale = torch.where(largest > 0, largest, 1.0)
    least = _LEAST_DISTANCE / scale
    squares = (difference / scale).square().sum(2)
    close = squares <= least**2
    # The root of a masked square is never taken: at 0 its gradient is infinite.
    distances = torch.where(close, least, torch.where(close, 1.0, squares).sqrt()).where(apart, 0.0)
    return distances / (distances.sum() / max(1, count * (count - 1)))


@_full_precision
def relation_angle_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Smooth L1 of the cosines of all angles in all triplets, RKD-A (Park et al. 2019, eq. 8); widths may differ."""
    return F.smooth_l1_loss(_angles(student_BD), _angles(teacher_BD.detach()))


def _angles(x_BD: Tensor) -> Tensor:
    """Cosine at vertex j between i and k, shape (j, i, k)."""
    directions = unit(x_BD[None] - x_BD[:, None])
    return torch.bmm(directions, directions.transpose(1, 2))


@_full_precision
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the samples' similarity matrices, rows of length 1 (Tung & Mori 2019, eq. 4).

    Args:
        student, teacher: features (B, ...), flattened; shapes may differ but for B.
    """
    student_gram, teacher_gram = (unit(_gram(x.flatten(1))) for x in (student, teacher.detach()))
    return (student_gram - teacher_gram).square().sum() / len(student) ** 2


def _gram(x_BD: Tensor) -> Tensor:
    largest = x_BD.detach().abs().max()
    scaled = x_BD / torch.where(largest > 0, largest, 1.0)
    return scaled @ scaled.T


@_full_precision
def variational_loss(mean: Tensor, teacher: Tensor, rho_C: Tensor) -> Tensor:
    """Negative log likelihood of the teacher's features without its constant (Ahn et al. 2019, eq. 5).

    Args:
        mean, teacher: prediction and feature, (B, C, H, W).
        rho_C: unconstrained scale of each channel; the variance is softplus(rho) + 1e-5.
    """
    variance = (torch.logaddexp(rho_C, torch.zeros_like(rho_C)) + _LEAST_VARIANCE)[:, None, None]
    return ((mean - teacher.detach()).square() / variance + variance.log()).mean() / 2


@_full_precision
def factor_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of factors of length 1 per sample (Kim et al. 2018, eq. 3), same shapes (B, ...)."""
    return (unit(student.flatten(1)) - unit(teacher.detach().flatten(1))).abs().mean()


@_full_precision
def reconstruction_loss(reconstruction: Tensor, feature: Tensor) -> Tensor:
    """Mean absolute error of the paraphraser (Kim et al. 2018, eq. 1 in its L1 form), same shapes."""
    return (reconstruction - feature.detach()).abs().mean()

"""What a run trains: a student, the parts of its method, and the weight between labels and teacher."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import labtrail as lt
from projects.distill.config import DistillConfig
from projects.distill.methods import METHODS, StageWidths
from projects.distill.model import Output, ResNet


class Learner(nn.Module):
    """Everything a checkpoint of a run has to hold beside the optimizer.

    Attributes:
        student: the network.
        matcher: the method's module; None without a teacher.
        weight: base weight of the extra term, a scalar; frozen once training has begun.
    """

    def __init__(self, config: DistillConfig, channels: int, classes: int, teacher: Sequence[int] = ()) -> None:
        """
        Args:
            config: of the run.
            channels: of the images.
            classes: number of classes.
            teacher: channels of the teacher's stages, where the method has one.
        """
        super().__init__()
        self.student = ResNet(config.model, channels, classes)
        self.matcher: nn.Module | None = None
        self.alpha = config.alpha
        self.smoothing = config.train.label_smoothing if config.method == "none" else 0.0
        self.weight: Tensor
        weight = 0.0
        if teacher:
            shapes = StageWidths(self.student.widths, tuple(teacher), classes)
            self.matcher = METHODS[config.method].build(config.loss, shapes)
            weight = config.loss.weight or METHODS[config.method].weight
        self.register_buffer("weight", torch.tensor(weight))

    def terms(self, output: Output, taught: Output | None, labels_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross entropy and the weighted extra term, both without alpha, in float32; scalars."""
        ce = F.cross_entropy(output.logits.float(), labels_B, label_smoothing=self.smoothing)
        if self.matcher is None or taught is None:
            return ce, None
        return ce, self.weight * self.matcher(output, taught, labels_B)

    def loss(self, ce: Tensor, extra: Tensor | None) -> Tensor:
        """(1 - alpha) CE + alpha extra; a baseline's alpha is 0, and the control arm has no extra term."""
        scaled = (1 - self.alpha) * ce
        return scaled if extra is None else scaled + self.alpha * extra


def gradient_comparison(model: nn.Module, ce: Tensor, extra: Tensor) -> tuple[Tensor, Tensor]:
    """How the two terms pull at the student: ratio of gradient norms (extra by CE) and cosine between them.

    Args:
        model: the student; the graph of both terms is kept.
        ce, extra: scalars, without alpha.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The forward pass around may be under autocast; a backward pass is not to be.
    with torch.autocast(ce.device.type, enabled=False):
        first, second = (
            torch.cat([gradient.flatten().double() for gradient in _gradients(term, parameters)])
            for term in (ce, extra)
        )
    norms = first.norm(), second.norm()
    return norms[1] / norms[0].clamp(min=1e-30), (first @ second) / (norms[0] * norms[1]).clamp(min=1e-30)


def _gradients(term: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]


def balance(learner: Learner, terms: Callable[[int], tuple[Tensor, Tensor]], batches: int) -> None:
    """Sets the weight so that, over some batches before training, both terms pull equally hard; then it stays.

    Args:
        learner: its weight is replaced.
        terms: batch number -> cross entropy and the extra term at the present weight, with their graph.
        batches: how many are averaged.

    Raises:
        MetricError: one of the terms does not pull at all, or not by a finite amount.
    """
    ratios = [gradient_comparison(learner.student, *terms(number))[0] for number in range(batches)]
    mean = float(torch.stack(ratios).mean())
    if not (math.isfinite(mean) and mean > 0):
        raise lt.MetricError(
            f"loss.balance: gradient: the extra term's gradient is {mean:g} times that of CE before training: no "
            "weight balances them; use loss.balance fixed, or another compute.precision"
        )
    learner.weight.copy_(learner.weight / mean)


class SkippedSteps:
    """Counts steps in a row that the loss scaler skipped, and stops a run that no longer learns."""

    def __init__(self, method: str, most: int) -> None:
        self._method, self._most, self._count = method, most, 0

    def note(self, skipped: bool) -> None:
        """
        Raises:
            MetricError: too many in a row; names the method.
        """
        self._count = self._count + 1 if skipped else 0
        if self._count >= self._most:
            raise lt.MetricError(
                f"method {self._method}: the loss scaler skipped {self._count} steps in a row, so nothing is learnt: "
                "its gradients are not finite in fp16; use compute.precision bf16, or a smaller loss.weight"
            )

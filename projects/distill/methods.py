"""The methods: what a student is asked to match beside the labels, each a module with the parts it trains."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

import labtrail as lt
from projects.distill import losses
from projects.distill.adapters import Paraphraser, Regressor, Translator
from projects.distill.config import LossConfig
from projects.distill.model import Output


class StageWidths(NamedTuple):
    """What a method has to know of the networks.

    Attributes:
        student, teacher: channels of the three stages.
        classes: number of classes.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    classes: int


class Logit(nn.Module):
    """Softened logits (Hinton et al. 2015)."""

    def __init__(self, config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()
        self.temperature = config.temperature

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.logit_loss(student.logits, teacher.logits, self.temperature)


class StandardisedLogit(nn.Module):
    """Softened standardised logits (Sun et al. 2024)."""

    def __init__(self, config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()
        self.temperature = config.temperature

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.standardised_logit_loss(student.logits, teacher.logits, self.temperature)


class Decoupled(nn.Module):
    """Target class and other classes apart (Zhao et al. 2022)."""

    def __init__(self, config: LossConfig, shapes: StageWidths) -> None:
        super().__init__()
        if shapes.classes < 3:
            raise lt.ConfigError([f"method: dkd needs at least 3 classes, found {shapes.classes}; use logit"])
        self.weights = (config.dkd_alpha, config.dkd_beta)
        self.temperature = config.temperature

    def forward(self, student: Output, teacher: Output, labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        parts = losses.decoupled_losses(student.logits, teacher.logits, labels_B, self.temperature)
        return self.weights[0] * parts[0] + self.weights[1] * parts[1]


class Hint(nn.Module):
    """The student's first stage, projected to the teacher's second (Romero et al. 2015): a thin layer has to widen.

    The projection ends as the teacher's stage does, in batch norm and ReLU; without the norm, its regression diverges
    at the usual rates and weights.
    """

    def __init__(self, _config: LossConfig, shapes: StageWidths) -> None:
        super().__init__()
        self.connect = nn.Sequential(
            nn.Conv2d(shapes.student[0], shapes.teacher[1], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(shapes.teacher[1]),
            nn.ReLU(),
        )

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.hint_loss(self.connect(student.stages[0]), teacher.stages[1])


class Attention(nn.Module):
    """Attention maps of all three stages (Zagoruyko & Komodakis 2017)."""

    def __init__(self, config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()
        self.form = config.attention_form

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.attention_loss(student.stages, teacher.stages, form=self.form)


class Relations(nn.Module):
    """Distances and angles among a batch's pooled features (Park et al. 2019)."""

    def __init__(self, config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()
        self.angle = config.rkd_angle

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        distance = losses.relation_distance_loss(student.pooled, teacher.pooled)
        return distance + self.angle * losses.relation_angle_loss(student.pooled, teacher.pooled)


class Factors(nn.Module):
    """Factors of the last stage (Kim et al. 2018); the paraphraser was trained before, by itself."""

    def __init__(self, config: LossConfig, shapes: StageWidths) -> None:
        super().__init__()
        count = factors_of(config, shapes)
        self.translate = Translator(shapes.student[2], count)
        self.paraphrase = Paraphraser(shapes.teacher[2], count).requires_grad_(False)

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        with torch.no_grad():
            factors = self.paraphrase(teacher.stages[2])
        return losses.factor_loss(self.translate(student.stages[2]), factors)


def factors_of(config: LossConfig, shapes: StageWidths) -> int:
    """Number of factors, a share of the teacher's channels (k in Kim et al. 2018)."""
    return max(1, round(config.factor_rate * shapes.teacher[2]))


class NeuronSelectivity(nn.Module):
    """Channel maps of the last stage (Huang & Wang 2017)."""

    def __init__(self, _config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.neuron_selectivity_loss(student.stages[2], teacher.stages[2])


class Similarity(nn.Module):
    """Similarities among a batch at the last stage (Tung & Mori 2019)."""

    def __init__(self, _config: LossConfig, _shapes: StageWidths) -> None:
        super().__init__()

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        return losses.similarity_loss(student.stages[2], teacher.stages[2])


class Variational(nn.Module):
    """All three stages predicted with a variance of their own, which is learnt (Ahn et al. 2019)."""

    def __init__(self, _config: LossConfig, shapes: StageWidths) -> None:
        super().__init__()
        pairs = zip(shapes.student, shapes.teacher, strict=True)
        self.regress = nn.ModuleList(Regressor(width, wanted) for width, wanted in pairs)

    def forward(self, student: Output, teacher: Output, _labels_B: Tensor) -> Tensor:
        """The unweighted term, a scalar."""
        stages = zip(self.regress, student.stages, teacher.stages, strict=True)
        terms = [
            losses.variational_loss(regress(student_stage), teacher_stage, regress.rho)
            for regress, student_stage, teacher_stage in stages
        ]
        return torch.stack(terms).sum()


class MethodSpec(NamedTuple):
    """A method and the weight that its authors, or the programs that people use, give it."""

    build: Callable[[LossConfig, StageWidths], nn.Module]
    weight: float


# Another method is a class above, its line here, and its name in ``Method`` of config.py.
METHODS: Mapping[str, MethodSpec] = {
    "logit": MethodSpec(Logit, 1.0),
    "fitnets": MethodSpec(Hint, 100.0),
    "attention": MethodSpec(Attention, 1000.0),
    "rkd": MethodSpec(Relations, 25.0),
    "factor": MethodSpec(Factors, 500.0),
    "nst": MethodSpec(NeuronSelectivity, 50.0),
    "sp": MethodSpec(Similarity, 3000.0),
    "vid": MethodSpec(Variational, 1.0),
    "dkd": MethodSpec(Decoupled, 1.0),
    "logitstd": MethodSpec(StandardisedLogit, 1.0),
}

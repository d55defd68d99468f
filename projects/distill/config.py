"""The configs of the distill tasks."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, model_validator

import labtrail as lt
from labtrail.store import contract

Method = Literal[
    "none", "control", "logit", "fitnets", "attention", "rkd", "factor", "nst", "sp", "vid", "dkd", "logitstd"
]
METHOD_NAMES: tuple[str, ...] = get_args(Method)
# Methods without a teacher: a baseline, and the cross-entropy-only arm (1 - alpha) CE.
ALONE = ("none", "control")
FIND = "find"

DataName = Literal["digits", "cifar10", "cifar100", "svhn", "tinyimagenet"]
ModelName = Literal["resnet8", "resnet14", "resnet20", "resnet32", "resnet56", "resnet110", "resnet112"]


class DataConfig(lt.Section):
    """The images."""

    name: DataName = "digits"
    """digits is bundled with scikit-learn; the others are read from a folder"""
    folder: Path | None = None
    """where the data set lies; empty: data/NAME, where fetch puts it"""
    validation: float = Field(default=0.1, gt=0, lt=0.5)
    """share of the training images held out, in every class alike"""
    split_seed: int = Field(default=0, ge=0)
    """seed of what is held out, apart from the run's: teachers and students of all seeds hold out the same"""


class ModelConfig(lt.Section):
    """The CIFAR ResNet of He et al. 2016, section 4.2, with projection shortcuts."""

    name: ModelName = "resnet20"
    """depth; resnet110 and resnet112 are the same network, 18 blocks a stage"""
    width: int = Field(default=16, ge=4, le=256)
    """channels of the first stage; the second has twice, the third four times as many"""


class LossConfig(lt.Section):
    """What the student learns beside the labels."""

    weight: float | None = Field(default=None, gt=0)
    """base weight of the extra term; empty: that of the method's authors"""
    balance: Literal["fixed", "gradient"] = "fixed"
    """gradient: the weight makes the extra term's gradient as long as that of CE before training, then stays"""
    balance_batches: int = Field(default=8, ge=1)
    """batches on which the weight is calibrated"""
    temperature: float = Field(default=4.0, gt=0)
    """T of logit, dkd and logitstd"""
    attention_form: Literal["code", "paper"] = "code"
    """the authors' program (squared), or their equation (a norm)"""
    rkd_angle: float = Field(default=2.0, ge=0)
    """weight of angles beside distances of weight 1"""
    dkd_alpha: float = Field(default=1.0, ge=0)
    """weight of the target class in dkd"""
    dkd_beta: float = Field(default=8.0, ge=0)
    """weight of the other classes in dkd"""
    factor_rate: float = Field(default=0.5, gt=0, le=2)
    """factors of the paraphraser, as a share of the teacher's channels"""
    paraphraser_epochs: int = Field(default=5, ge=1)
    """epochs of the paraphraser, before the student begins"""


class TrainConfig(lt.Section):
    """The optimisation: SGD with Nesterov-free momentum."""

    epochs: int = Field(default=150, ge=1)
    """passes over the training images"""
    batch_size: int = Field(default=128, ge=2)
    """images of a step"""
    learning_rate: float = Field(default=0.1, gt=0)
    """at the start"""
    schedule: Literal["cosine", "steps"] = "cosine"
    """cosine to 0, or divided by 10 at each milestone"""
    milestones: lt.Integers = ()
    """epochs of schedule steps"""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """of SGD"""
    weight_decay: float = Field(default=5e-4, ge=0)
    """of all weights"""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """of the baseline only: with a teacher the targets are soft already"""
    channels_last: bool = True
    """memory format of the networks; faster on CPUs and tensor cores"""
    fused_teacher: bool = True
    """folds the frozen teacher's batch norms into its convolutions"""
    skipped_steps: int = Field(default=50, ge=1)
    """steps in a row that the fp16 loss scaler may skip before the run stops with an error"""

    @model_validator(mode="after")
    def _milestones_fit(self) -> "TrainConfig":
        if (self.schedule == "steps") != bool(self.milestones):
            raise ValueError("milestones belong to schedule steps, which needs some")
        return self


class DistillConfig(lt.Config):
    """Everything that decides the outcome of a distill run."""

    method: Method = "none"
    """none: a baseline (a future teacher); control: (1 - alpha) CE alone; else what is learnt from the teacher"""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """loss = (1 - alpha) CE + alpha * weight * extra; a baseline has none"""
    teacher: str = FIND
    """finished run id, models:/NAME@ALIAS, an MLflow filter, or 'find': the baseline of these data and this seed"""
    teacher_model: ModelName = "resnet56"
    """architecture that 'find' looks for"""
    teacher_version: str = ""
    """version in the model registry; filled in when the teacher is resolved"""
    teacher_sha256: str = ""
    """digest of the teacher's weights; filled in, or refused if given and different"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    remat: lt.Remat = lt.Remat()


class StudentConfig(lt.Section):
    """One student of a bundle."""

    method: Method
    """as in a run by itself"""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """as in a run by itself"""
    loss: LossConfig | None = None
    """as in a run by itself; empty: the bundle's"""


class BundleConfig(DistillConfig):
    """Students side by side: what they share are the keys of a distill config."""

    students: tuple[StudentConfig, ...] = Field(min_length=1)
    """what they have of their own"""

    @model_validator(mode="after")
    def _students_differ(self) -> "BundleConfig":
        # A baseline has no alpha, and a loss that is not given is the bundle's.
        identities = [
            ("none" if student.method == "none" else (student.method, student.alpha), student.loss or self.loss)
            for student in self.students
        ]
        if len(set(identities)) < len(identities):
            raise ValueError("two students are the same")
        return self


def configs_of(config: BundleConfig) -> list[DistillConfig]:
    """The config of each student, like that of a single run."""
    shared = {name: getattr(config, name) for name in DistillConfig.model_fields}
    varied = [
        {"method": student.method, "alpha": student.alpha, "loss": student.loss or config.loss}
        for student in config.students
    ]
    return [DistillConfig.model_validate(shared | values) for values in varied]


class AnalysisConfig(lt.Config):
    """Which runs are compared."""

    campaign: str = ""
    """runs of this campaign only; empty: of any or none"""
    runs: str = contract.ALL
    """finished distill runs: ids with commas, an MLflow filter, or 'all'"""

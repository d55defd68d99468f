"""The configs of the pamap2 tasks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

import labtrail as lt
from labtrail.config import listed
from labtrail.store import contract
from projects.pamap2.schema import MODALITIES

SYNTHETIC = "synthetic"


class SyntheticConfig(lt.Section):
    """The generated recordings, used where the source is named ``synthetic``."""

    subjects: int = Field(default=4, ge=2, le=8)
    """number of people, from 101 on"""
    activities: lt.Integers = (2, 4, 5, 12)
    """activity ids"""
    bouts: int = Field(default=2, ge=1)
    """bouts of each activity and person"""
    bout_s: float = Field(default=12.0, ge=3)
    """mean length of a bout in seconds"""
    noise: float = Field(default=4.0, ge=0)
    """spread of people around an activity, in units of the sensors' noise"""
    dropout: float = Field(default=0.002, ge=0, lt=0.5)
    """chance of a row to lose one IMU"""
    seed: int = Field(default=0, ge=0)
    """seed of the recordings, apart from the seed of the run"""


class HeartRateConfig(lt.Section):
    """How heart rate gets from about 9 Hz to every row."""

    median: Literal["trailing", "centered", "native"] = "trailing"
    """window of the median: the last 25 rows, 25 rows around, or the last 25 measurements"""


class SplitConfig(lt.Section):
    """Which rows train, validate and test."""

    protocol: Literal["contiguous", "loso", "subject106", "whole_shards"] = "contiguous"
    """contiguous (subject-dependent), loso (each test subject in turn), subject106, or whole shards"""
    shares: tuple[float, float, float] = (0.70, 0.15, 0.15)
    """shares of train, validation and test rows; exact in the contiguous protocol"""
    test_subjects: lt.Integers = ()
    """subjects left out one after the other; empty: all but 109; loso only"""
    window: int = Field(default=256, ge=2, le=10000)
    """rows of a window (100 rows are a second)"""
    step: int = Field(default=128, ge=1)
    """rows between the starts of two windows"""
    guard: int | None = Field(default=None, ge=0)
    """rows kept between windows of two splits in a bout; empty: as many as a window has"""
    trim_s: float = Field(default=0.0, ge=0)
    """seconds left out at either end of each bout, where labels are least certain"""

    @property
    def guard_rows(self) -> int:
        """The guard, a window by default."""
        return self.window if self.guard is None else self.guard


class ExportConfig(lt.Section):
    """Further forms of the data, written on request."""

    csv: bool = False
    """processed/subject_<id>/activity_<id>.csv, all 55 columns"""
    tensors: bool = False
    """processed_tensors/subject_<id>/activity_<id>.pt, the sensors as float32"""
    manifests: bool = False
    """splits/{train,val,test}.txt, lines 'path,rows'"""


class PrepareConfig(lt.Config):
    """From raw recordings to one array and an index."""

    source: str = SYNTHETIC
    """zip or folder of .dat files, or 'synthetic'"""
    output: Path = Path("data/pamap2/prepared")
    """where the data set goes; an earlier one there is replaced as a whole"""
    hr: HeartRateConfig = HeartRateConfig()
    split: SplitConfig = SplitConfig()
    export: ExportConfig = ExportConfig()
    synthetic: SyntheticConfig = SyntheticConfig()


class DataConfig(lt.Section):
    """The prepared data set."""

    folder: str = SYNTHETIC
    """folder that pamap2-prepare has written, or 'synthetic' (generated and prepared on the spot)"""
    synthetic: SyntheticConfig = SyntheticConfig()


Fusion = Literal["early", "late", "hybrid", "gated", "tensor", "low_rank"]
Missing = Literal["none", "zero", "mean_impute", "modality_dropout", "learned_token", "masked_attention"]
Modality = Literal["hand", "chest", "ankle", "heart_rate"]
HEADS, RANK = 4, 8
# Options that only some fusions have; every other option is shared.
_OWN_OPTIONS = {"heads": {"hybrid"}, "rank": {"low_rank"}}
# Fusions that can leave a modality out; the others need something in its place.
MASKED_FUSIONS: tuple[Fusion, ...] = ("late", "hybrid", "gated")


def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same modalities are the same config, however they were written."""
    if not names or len(set(names)) < len(names):
        raise ValueError("expected each modality once, and at least one")
    return tuple(name for name in MODALITIES if name in names)


class ModelConfig(lt.Section):
    """Encoders of the four modalities and their fusion; one config serves every fusion."""

    fusion: Fusion = "hybrid"
    """early: joined channels; late: mean of logits; hybrid: attention over tokens; gated, tensor, low_rank"""
    encoder: Literal["cnn", "lstm", "transformer"] = "cnn"
    """what turns a modality's window into tokens"""
    modalities: Annotated[tuple[Modality, ...], BeforeValidator(listed), AfterValidator(_in_order)] = (
        "hand",
        "chest",
        "ankle",
        "heart_rate",
    )
    """what the network reads; fewer than all make a model dedicated to them"""
    width: int = Field(default=32, ge=4, le=1024)
    """width of a token"""
    layers: int = Field(default=3, ge=1, le=8)
    """layers of an encoder; a CNN halves the length with each"""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """dropout rate before the classifier"""
    heads: int | None = Field(default=None, ge=1)
    """attention heads, hybrid only; empty: 4"""
    rank: int | None = Field(default=None, ge=1)
    """rank of the factors, low_rank only; empty: 8"""
    missing: Missing = "none"
    """a missing modality is its mean (none, mean_impute, modality_dropout), zeros, a learnt token, or left out"""
    missing_rate: float = Field(default=0.4, ge=0, lt=1)
    """chance of each modality to be left out of a training window, where missing is trained for"""
    modality_fold_size: int = Field(default=0, ge=0)
    """modalities encoded at once, to save memory; 0: all; the logits are the same"""

    @property
    def dedicated(self) -> bool:
        """Whether some modalities are no part of the network."""
        return len(self.modalities) < len(MODALITIES)

    @model_validator(mode="after")
    def _options_fit_the_fusion(self) -> "ModelConfig":
        for name, fusions in _OWN_OPTIONS.items():
            if getattr(self, name) is not None and self.fusion not in fusions:
                raise ValueError(
                    f"{name} belongs to {', '.join(sorted(fusions))}; fusion {self.fusion} has no such option"
                )
        if self.fusion == "hybrid" and self.width % (self.heads or HEADS):
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads or HEADS}")
        if self.missing == "masked_attention" and self.fusion not in MASKED_FUSIONS:
            raise ValueError(
                f"missing: masked_attention needs {' or '.join(MASKED_FUSIONS)}; fusion {self.fusion} cannot leave one "
                "out"
            )
        return self


class TrainConfig(lt.Section):
    """The optimisation."""

    epochs: int = Field(default=25, ge=1)
    """passes over the training windows, of each fold"""
    batch_size: int = Field(default=32, ge=2)
    """windows of a pass, in each process"""
    accumulation: int = Field(default=1, ge=1)
    """passes of an update"""
    learning_rate: float = Field(default=2e-3, gt=0)
    """peak of the one-cycle schedule"""
    weight_decay: float = Field(default=0.01, ge=0)
    """decoupled weight decay"""
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    """share of the target spread over all classes"""
    class_weights: bool = True
    """weighs classes by the inverse of their number of training windows"""
    clip_norm: float = Field(default=1.0, gt=0)
    """largest norm of an update's gradient"""
    rotation_deg: float = Field(default=20.0, ge=0)
    """standard deviation of a random rotation of each IMU in each training window"""
    patience: int = Field(default=0, ge=0)
    """epochs without a better validation score that end a fold, its best weights kept; 0: none do, the last are kept"""
    compile: bool = False
    """runs the network through torch.compile, where a C++ compiler is there; sums may differ in the last digits"""


class Pamap2Config(lt.Config):
    """Everything that decides the outcome of a pamap2 run."""

    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    remat: lt.Remat = lt.Remat()

    @model_validator(mode="after")
    def _trained_one_way(self) -> "Pamap2Config":
        if self.train.compile and self.remat.memory is not None:
            raise ValueError(
                "remat.memory and train.compile: a planned step does not go through the compiler; leave out one"
            )
        return self


class RobustnessConfig(lt.Config):
    """Which run is judged, and how hard."""

    run: str = contract.LATEST
    """finished pamap2 run: its id, 'latest', or an MLflow filter that one run meets"""
    dedicated: lt.Words = ()
    """runs trained on some modalities only (model.modalities), to stand beside: ids, or 'find' for all that fit"""
    noise: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 1.0), min_length=1)
    """standard deviations of noise on every channel, in units of the training windows; 0 is none"""


class AnalysisConfig(lt.Config):
    """Which runs are compared."""

    runs: str = contract.ALL
    """finished pamap2 runs: ids with commas, an MLflow filter, 'latest', or 'all' on the data of the newest"""

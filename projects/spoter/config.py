"""The configs of the spoter tasks."""

from pathlib import Path
from typing import Literal

from pydantic import Field

import labtrail as lt
from labtrail.store import contract

SYNTHETIC = "synthetic"


class SyntheticConfig(lt.Section):
    """The generated data set, used where a split is named ``synthetic``."""

    classes: int = Field(default=8, ge=2, le=1000)
    """number of signs"""
    train: int = Field(default=96, ge=1)
    """clips of the train split"""
    validation: int = Field(default=32, ge=1)
    """clips of the validation split"""
    test: int = Field(default=32, ge=1)
    """clips of the test split"""
    frames: int = Field(default=24, ge=2, le=204)
    """mean number of frames of a clip"""
    noise: float = Field(default=0.2, ge=0)
    """standard deviation of each signer's deviation from the sign, in fractions of the picture"""
    seed: int = Field(default=0, ge=0)
    """seed of the data set, apart from the seed of the run"""


class DataConfig(lt.Section):
    """The three splits."""

    train: str = SYNTHETIC
    """skeleton CSV (.csv or .csv.gz) to train on, or 'synthetic'"""
    validation: str = SYNTHETIC
    """skeleton CSV that selects the weights, or 'synthetic'"""
    test: str = SYNTHETIC
    """skeleton CSV that is used once, by the selected weights, or 'synthetic'"""
    label_column: str = "labels"
    """integer column that holds the class"""
    classes: int | None = Field(default=None, ge=2)
    """number of classes; empty: as many as the train labels need"""
    first_label: Literal[0, 1] | None = None
    """the label of the first class; empty: 0 if the train split has a 0, otherwise 1"""
    synthetic: SyntheticConfig = SyntheticConfig()


class ModelConfig(lt.Section):
    """The network; the defaults are the paper's, and the width is always 108 (54 joints x 2)."""

    heads: Literal[1, 2, 3, 4, 6, 9, 12, 18] = 9
    """attention heads; a divisor of 108"""
    layers: int = Field(default=6, ge=1, le=24)
    """encoder layers, and as many decoder layers"""
    feed_forward: int = Field(default=2048, ge=1)
    """width of the feed-forward layers"""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """dropout rate"""
    positions: bool = False
    """adds sinusoidal positions to the frames; the published network has none and sees a set of frames"""


class AugmentConfig(lt.Section):
    """What happens to a training clip before normalisation, and the noise after it."""

    variant: Literal["original", "consistent"] = "original"
    """original: as published, missing joints and hands included; consistent: all present joints move alike"""
    probability: float = Field(default=0.5, ge=0, le=1)
    """chance that one of the four augmentations (rotation, perspective, squeeze, arms) is applied"""
    rounds: int = Field(default=1, ge=0, le=8)
    """how many times that chance is drawn for a clip"""
    noise: float = Field(default=0.001, ge=0)
    """standard deviation of Gaussian noise on the normalised coordinates"""
    frame_drop: float = Field(default=0.0, ge=0, lt=1)
    """chance of each frame to be left out; at least one stays"""


class TrainConfig(lt.Section):
    """The optimisation."""

    epochs: int = Field(default=350, ge=1)
    """passes over the train split"""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """sgd: no momentum, as in the paper; adamw: betas 0.9 and 0.98"""
    learning_rate: float = Field(default=1e-3, gt=0)
    """peak learning rate"""
    schedule: Literal["constant", "cosine"] = "constant"
    """constant, or linear warm-up and then cosine to 0"""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """share of the updates that warm up; cosine only"""
    weight_decay: float = Field(default=0.0, ge=0)
    """decoupled weight decay; adamw only"""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """share of the target spread over all classes"""
    batch_size: int = Field(default=1, ge=1)
    """clips of an update, in each process"""
    max_frames: int = Field(default=512, ge=1)
    """frames that are computed at once; a larger update is accumulated from several passes"""
    clip_norm: float | None = Field(default=None, gt=0)
    """largest norm of an update's gradient; empty: not clipped"""
    milestones: lt.Integers = (10, 50, 100, 200, 350)
    """epochs whose weights are kept as checkpoints/epoch_NNN.pt"""
    baseline: bool = True
    """whether the 1-nearest-neighbour (DTW) baseline is computed beside the network"""


class SpoterConfig(lt.Config):
    """Everything that decides the outcome of a spoter run."""

    seed: int = Field(default=379, ge=0, lt=2**31)
    """seed of weights, data order and augmentation"""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    remat: lt.Remat = lt.Remat()


class AttentionConfig(lt.Config):
    """Whose attention is extracted, and where it looks."""

    run: str = contract.LATEST
    """finished training run: its id, 'latest', or an MLflow filter that one run meets"""
    epochs: lt.Integers = ()
    """epochs, as 10,50,100; 0 is the network before training; empty: all whose checkpoints the run kept"""
    split: Literal["train", "validation", "test"] = "test"
    """which of the run's splits"""
    max_frames: int = Field(default=1024, ge=1)
    """frames that are computed at once"""
    export_pt: bool = False
    """also writes attention_epochNNN.pt, one dictionary of float32 tensors per clip (about twice the size)"""


class StatisticsConfig(lt.Section):
    """Intervals and nulls."""

    resamples: int = Field(default=2000, ge=100)
    """bootstrap samples of the clips"""
    permutations: int = Field(default=500, ge=20)
    """permutations of each test; the smallest p-value is 1 / (permutations + 1)"""


class InterventionConfig(lt.Section):
    """What is taken away, and at which epochs."""

    epochs: lt.Integers = ()
    """epochs at which heads, frames and joints are taken away; empty: the last one"""
    steps: int = Field(default=32, ge=2)
    """steps of integrated gradients"""
    random_orders: int = Field(default=10, ge=1)
    """random orders that deletion is averaged over"""
    random_groups: int = Field(default=5, ge=1)
    """random groups of joints of the same size, the null of occlusion"""


class CasesConfig(lt.Section):
    """Signs that get a page of their own; chosen by this rule and nothing that is known afterwards."""

    count: int = Field(default=8, ge=0)
    """number of signs"""
    rule: Literal["evenly_spaced"] = "evenly_spaced"
    """evenly_spaced: classes at even distances in the order of their numbers, the first clip of each"""


class LanguageConfig(lt.Section):
    """The comparison with a language model; ``mbert`` names its folder."""

    glosses: Path | None = None
    """list of lines 'label<TAB>gloss', for data without a gloss column"""
    random_weights: bool = False
    """the weights in that folder are random: every row is labelled a null"""


class ViewerConfig(lt.Section):
    """The page to look into."""

    clips: int = Field(default=20, ge=1)
    """clips on the page, chosen as the case studies are"""
    megabytes: float = Field(default=9.5, gt=4)
    """largest size of the page; queries of long clips are thinned out to keep it"""


class AnalysisConfig(lt.Config):
    """What is analysed, and how much of it."""

    run: str = contract.LATEST
    """finished spoter-attention run (or the training it was extracted from): id, 'latest', or an MLflow filter"""
    epochs: lt.Integers = ()
    """epochs of the extraction that are analysed; empty: all"""
    max_frames: int = Field(default=1024, ge=1)
    """frames that are computed at once"""
    mbert: Path | None = None
    """folder of a multilingual BERT with its tokenizer; empty: the comparison is not run"""
    statistics: StatisticsConfig = StatisticsConfig()
    intervention: InterventionConfig = InterventionConfig()
    cases: CasesConfig = CasesConfig()
    language: LanguageConfig = LanguageConfig()
    viewer: ViewerConfig = ViewerConfig()

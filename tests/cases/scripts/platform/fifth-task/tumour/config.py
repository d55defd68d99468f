"""The config of the tumour task."""

from typing import Literal

from pydantic import Field

from labtrail.config import Remat, Section, Config


class ModelConfig(Section):
    """The network."""

    width: int = Field(default=32, ge=1)
    """width of the hidden layers"""
    layers: int = Field(default=2, ge=1, le=8)
    """hidden layers"""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """dropout rate"""


class TrainConfig(Section):
    """The optimisation."""

    epochs: int = Field(default=20, ge=1)
    """most passes over the train split"""
    batch_size: int = Field(default=32, ge=1)
    """rows of one pass, in each process"""
    accumulation: int = Field(default=2, ge=1)
    """passes of one update"""
    learning_rate: float = Field(default=3e-3, gt=0)
    """peak learning rate"""
    schedule: Literal["constant", "cosine"] = "cosine"
    """constant, or cosine to 0"""
    patience: int = Field(default=0, ge=0)
    """epochs without a better validation loss after which training stops; 0: never"""


class TumourConfig(Config):
    """Everything that decides the outcome of a tumour run."""

    sensitivity: float = Field(default=0.95, gt=0, le=1)
    """share of malignant rows that must be found where specificity is measured"""
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    remat: Remat = Remat()

"""The task pamap2-robustness: one finished run judged with any of its modalities missing, and under noise."""

from collections.abc import Generator, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from pydantic import Field
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from tqdm import tqdm

from labtrail import contract
from labtrail.checkpoint import Checkpoint
from labtrail.config import TaskConfig, load_config
from labtrail.figures import heat_maps
from labtrail.files import sha256_of
from labtrail.launch import require_one_process
from labtrail.record import DataSource, Record, named
from labtrail.task import Task
from projects.pamap2.build import open_data
from projects.pamap2.config import Pamap2Config
from projects.pamap2.evaluate import predict, scores
from projects.pamap2.folds import Fold, classes_of, make_folds
from projects.pamap2.inputs import CHANNELS, NAMES, Resident, make_resident, subset_names
from projects.pamap2.model import FusionModel
from projects.pamap2.train import weights_name

NAME = "pamap2-robustness"
SUBSETS = [there for there in product((True, False), repeat=len(NAMES)) if any(there)]


class RobustnessConfig(TaskConfig):
    """Which run is judged, and how hard."""

    run: str = contract.LATEST
    """finished pamap2 run: its id, 'latest', or an MLflow filter that one run meets"""
    noise: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 1.0), min_length=1)
    """standard deviations of noise on every channel, in units of the training windows; 0 is none"""


class Judged(NamedTuple):
    """Test windows of all folds under one condition.

    Attributes:
        logits, scaled: shape (windows, classes); as they are, and divided by the temperature of their fold.
    """

    logits: np.ndarray
    scaled: np.ndarray


def resolve(config: RobustnessConfig) -> RobustnessConfig:
    """The config with the run's id written out."""
    from labtrail.query import find_run

    return config.model_copy(update={"run": find_run(config.run, "pamap2")["run_id"]})


def subject_config(run_id: str) -> Pamap2Config:
    """What the judged run ran with."""
    from labtrail.query import artifact

    return load_config(Pamap2Config, artifact(run_id, contract.CONFIG_FILE))


def sources(config: RobustnessConfig) -> Sequence[DataSource]:
    """The data set, and the weights of every fold."""
    from labtrail.query import artifact

    own = subject_config(config.run)
    dataset = open_data(own.data)
    found = [DataSource("pamap2", "test", str(dataset.folder), dataset.digest)]
    for fold in make_folds(dataset, own.split, own.seed):
        name = weights_name(fold)
        digest = sha256_of(artifact(config.run, name))
        place = f"runs:/{config.run}/{name}"
        found.append(DataSource(Path(name).name, "checkpoint", place, digest, {"fold": fold.name}, config.run))
    return found


def judge(config: RobustnessConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:  # noqa: ARG001
    """One Record with the 15 subsets of modalities, the noise levels, and the figures."""
    require_one_process(accelerator, NAME)
    own = subject_config(config.run)
    dataset = open_data(own.data)
    classes, folds = classes_of(dataset), make_folds(dataset, own.split, own.seed)
    labels = np.concatenate([classes.labels[fold.test] for fold in folds])
    conditions = [(there, level) for there in SUBSETS for level in config.noise]
    parts: dict[tuple[tuple[bool, ...], float], list[Judged]] = {condition: [] for condition in conditions}
    for fold in folds:
        resident = make_resident(dataset.values, classes.labels, fold, own.split.window, accelerator.device)
        model = _model(config.run, own, fold, len(classes.ids)).to(accelerator.device)
        temperature = fit_temperature(predict(model, resident, fold.validation)[0], classes.labels[fold.validation])
        for condition in tqdm(conditions, desc=f"fold {fold.name}", unit="condition", leave=False, disable=None):
            logits = noisy_logits(model, resident, fold.test, *condition, seed=config.seed)
            parts[condition].append(Judged(logits, logits / temperature))
    table = pd.DataFrame(_rows(parts, labels))
    clean = table[table["noise"] == min(config.noise)].drop(columns="noise")
    files: dict[str, Any] = {
        "tables/modality_subsets.csv": clean,
        "tables/noise.csv": table,
        "figures/modality_subsets.png": _chart(table, config.noise),
    }
    yield Record(0, named("test", _summary(clean)), files)


def _model(run_id: str, config: Pamap2Config, fold: Fold, classes: int) -> FusionModel:
    from labtrail.query import artifact

    model = FusionModel(config.model, CHANNELS, classes)
    model.load_state_dict(load_file(artifact(run_id, weights_name(fold))))
    return model


def noisy_logits(
    model: FusionModel, resident: Resident, starts: np.ndarray, present: Sequence[bool], level: float, seed: int
) -> np.ndarray:
    """Logits of windows with some modalities there and Gaussian noise on their normalised channels.

    The noise depends on seed and window only, so subsets and levels are compared on the same draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def noisy(part: Tensor) -> Tensor:
        return part + level * torch.randn(part.shape, generator=generator).to(part.device)

    return predict(model, resident, starts, present, noisy)[0]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes validation logits most likely (Guo et al. 2017); within [0.05, 20]."""
    rows = np.arange(len(labels))

    def loss(exponent: float) -> float:
        return -float(log_softmax(logits.astype(float) / np.exp(exponent), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def _rows(parts: dict[tuple[tuple[bool, ...], float], list[Judged]], labels: np.ndarray) -> Iterator[dict[str, Any]]:
    for (there, level), judged in parts.items():
        logits, scaled = (np.concatenate(several) for several in zip(*judged, strict=True))
        plain, calibrated = scores(logits, labels), scores(scaled, labels)
        yield {
            **dict(zip(NAMES, there, strict=True)),
            "noise": level,
            **plain,
            **{f"{name}_scaled": calibrated[name] for name in ("nll", "brier", "ece")},
        }


def _summary(clean: pd.DataFrame) -> dict[str, float]:
    whole = clean[clean[list(NAMES)].all(axis=1)].iloc[0]
    return {
        "macro_f1": float(whole["macro_f1"]),
        "accuracy": float(whole["accuracy"]),
        "ece": float(whole["ece"]),
        "ece_scaled": float(whole["ece_scaled"]),
        "macro_f1_mean_of_subsets": float(clean["macro_f1"].mean()),
        "macro_f1_worst_subset": float(clean["macro_f1"].min()),
    }


def _chart(table: pd.DataFrame, noise: Sequence[float]):
    names = [subset_names(there) for there in SUBSETS]
    grid = np.array([table.loc[table["noise"] == level, "macro_f1"].to_numpy() for level in noise]).T
    return heat_maps(
        {"macro F1": grid}, names, [f"{level:g}" for level in noise], "macro F1 (all folds)",
        "Modalities that are there, by noise in training deviations", width=4.5,
    )  # fmt: skip


def title(config: RobustnessConfig) -> str:
    """Short name of the run: ``robustness-1a2b3c4d``."""
    return f"robustness-{config.run[:8]}"


TASK = Task(
    name=NAME,
    config=RobustnessConfig,
    function=judge,
    default=Path("configs/pamap2-robustness/default.yaml"),
    resolve=resolve,
    sources=sources,
    title=title,
    experiment="pamap2",
)

"""The task pamap2-robustness: one finished run judged with any of its modalities missing, and under noise."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import Tensor
from tqdm import tqdm

import labtrail as lt
from labtrail.figures import heat_maps
from projects.pamap2.config import Pamap2Config, RobustnessConfig
from projects.pamap2.dedicated import dedicated_scores, resolve_dedicated
from projects.pamap2.evaluate import predict, scores
from projects.pamap2.inputs import NAMES, DeviceWindows, make_resident, subset_names
from projects.pamap2.judged import SUBSETS, judged_sources, load_model, open_run
from projects.pamap2.model import FusionModel


class Answer(NamedTuple):
    """Test windows of all folds under one condition.

    Attributes:
        logits, scaled: shape (windows, classes); as they are, and divided by the temperature of their fold.
    """

    logits: np.ndarray
    scaled: np.ndarray


def resolve(config: RobustnessConfig) -> RobustnessConfig:
    """The config with the ids of all runs written out.

    Raises:
        QueryError: no such run, or one that never reads some of the modalities.
    """
    run_id = str(lt.find_run(config.run, "pamap2")["run_id"])
    judged_model = lt.run_config(run_id, Pamap2Config).model
    if judged_model.dedicated:
        raise lt.QueryError(
            f"run {run_id}: reads {', '.join(judged_model.modalities)} only; name one that reads all modalities"
        )
    return config.model_copy(update={"run": run_id, "dedicated": resolve_dedicated(run_id, config.dedicated)})


def sources(config: RobustnessConfig) -> Sequence[lt.DataSource]:
    """The data set, and the weights of every fold of every run."""
    return judged_sources([open_run(run_id) for run_id in (config.run, *config.dedicated)])


def evaluate(config: RobustnessConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record with the 15 subsets of modalities, the noise levels, and the figures."""
    judged = open_run(config.run)
    dataset, classes, folds = judged.dataset, judged.classes, judged.folds
    labels = np.concatenate([classes.labels[fold.test] for fold in folds])
    conditions = [(there, level) for there in SUBSETS for level in config.noise]
    answers: dict[tuple[tuple[bool, ...], float], list[Answer]] = {condition: [] for condition in conditions}
    accelerator = run.accelerator
    for fold in folds:
        window = judged.config.split.window
        resident = make_resident(dataset.values, classes.labels, fold, window, accelerator.device)
        model = load_model(judged, fold, accelerator.device)
        validation, _ = predict(model, resident, fold.validation, accelerator)
        temperature = fit_temperature(validation, classes.labels[fold.validation])
        for condition in tqdm(conditions, desc=f"fold {fold.name}", unit="condition", leave=False, disable=None):
            logits = noisy_logits(model, resident, fold.test, accelerator, *condition, seed=config.seed)
            answers[condition].append(Answer(logits, logits / temperature))
    table = pd.DataFrame(_rows(answers, labels))
    clean = _beside_dedicated(table[table["noise"] == min(config.noise)].drop(columns="noise"), config.dedicated)
    files: dict[str, Any] = {
        "tables/modality_subsets.csv": clean,
        "tables/noise.csv": table,
        "figures/modality_subsets.png": _chart(table, config.noise),
    }
    yield lt.Record(0, lt.named("test", _summary(clean)), files)


def _beside_dedicated(clean: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """With columns dedicated_macro_f1, ratio and dedicated_run, empty where a subset has no model of its own."""
    if not run_ids:
        return clean
    scores_by_subset = dedicated_scores(run_ids)
    subsets = [tuple(bool(there) for there in row) for row in clean[list(NAMES)].to_numpy()]
    ids, dedicated = zip(*(scores_by_subset.get(subset, ("", np.nan)) for subset in subsets), strict=True)
    ratio = clean["macro_f1"].to_numpy() / np.array(dedicated)
    return clean.assign(dedicated_macro_f1=dedicated, ratio=ratio, dedicated_run=ids)


def noisy_logits(
    model: FusionModel,
    resident: DeviceWindows,
    starts: np.ndarray,
    accelerator: Accelerator,
    present: Sequence[bool],
    level: float,
    seed: int,
) -> np.ndarray:
    """Logits of windows with some modalities there and Gaussian noise on their normalised channels.

    The noise depends on seed and window only, so subsets and levels are compared on the same draws.
    """
    generator = torch.Generator().manual_seed(seed)

    def noisy(part: Tensor) -> Tensor:
        return part + level * torch.randn(part.shape, generator=generator).to(part.device)

    return predict(model, resident, starts, accelerator, present, noisy)[0]


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature that makes validation logits most likely (Guo et al. 2017); within [0.05, 20]."""
    rows = np.arange(len(labels))

    def loss(exponent: float) -> float:
        return -float(log_softmax(logits.astype(float) / np.exp(exponent), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def _rows(
    answers: Mapping[tuple[tuple[bool, ...], float], list[Answer]], labels: np.ndarray
) -> Iterator[dict[str, Any]]:
    for (there, level), fold_answers in answers.items():
        logits, scaled = (np.concatenate(several) for several in zip(*fold_answers, strict=True))
        plain, calibrated = scores(logits, labels), scores(scaled, labels)
        yield {
            **dict(zip(NAMES, there, strict=True)),
            "noise": level,
            **plain,
            **{f"{name}_scaled": calibrated[name] for name in ("nll", "brier", "ece")},
        }


def _summary(clean: pd.DataFrame) -> dict[str, float]:
    whole = clean[clean[list(NAMES)].all(axis=1)].iloc[0]
    metrics = {
        "macro_f1": float(whole["macro_f1"]),
        "accuracy": float(whole["accuracy"]),
        "ece": float(whole["ece"]),
        "ece_scaled": float(whole["ece_scaled"]),
        "macro_f1_mean_of_subsets": float(clean["macro_f1"].mean()),
        "macro_f1_worst_subset": float(clean["macro_f1"].min()),
    }
    if "ratio" in clean:
        metrics["dedicated_models"] = float(clean["ratio"].notna().sum())
        metrics["ratio_to_dedicated_mean"] = float(clean["ratio"].mean())
        metrics["ratio_to_dedicated_worst"] = float(clean["ratio"].min())
    return metrics


def _chart(table: pd.DataFrame, noise: Sequence[float]):
    names = [subset_names(there) for there in SUBSETS]
    grid = np.array([table.loc[table["noise"] == level, "macro_f1"].to_numpy() for level in noise]).T
    return heat_maps(
        {"macro F1": grid},
        names,
        [f"{level:g}" for level in noise],
        "macro F1 (all folds)",
        "Modalities that are there, by noise in training deviations",
        width=4.5,
    )

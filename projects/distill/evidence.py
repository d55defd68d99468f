"""What finished runs left behind, as frames: one row per run, with its measures and those beside its teacher."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from tqdm import tqdm

from labtrail.statistics import debiased_cka, dissimilarities, rdm_correlation
from projects.distill.evaluate import FEATURES
from projects.distill.geometry import (
    error_overlap,
    neighbour_accuracy,
    participation_ratio,
    probe_accuracy,
    procrustes_distance,
    two_nn,
)

STAGES = ("stage_1", "stage_2", "stage_3")
# Grams of more images cost memory by the square and change little.
_IMAGES = 1000
_METRICS = ("accuracy", "accuracy_last", "nll", "brier", "ece", "teacher_agreement")


def collect(run_ids: Sequence[str]) -> pd.DataFrame:
    """A row per run: data, method, alpha, seed, model, teacher, test metrics, pull of the extra term, and geometry.

    Args:
        run_ids: finished distill runs.
    """
    from labtrail.query import Query

    runs = Query("distill", run_ids=run_ids).runs()
    pulls = Query("distill", run_ids=run_ids).history(["train/gradient_ratio", "train/gradient_cosine"])
    rows = []
    for _, run in tqdm(list(runs.iterrows()), desc="runs", unit="run", leave=False, disable=None):
        teacher = str(run["cfg.teacher"])
        rows.append(
            {
                "run_id": run["run_id"],
                "data": run["cfg.data.name"],
                "method": run["cfg.method"],
                "alpha": float(run["cfg.alpha"]),
                "seed": int(run["cfg.seed"]),
                "model": run["cfg.model.name"],
                "teacher": teacher,
                **{name: run.get(f"test/{name}") for name in _METRICS},
                **_pull(pulls[pulls["run_id"] == run["run_id"]]),
                **measures(features_of(run["run_id"])),
                **(beside(features_of(run["run_id"]), features_of(teacher)) if teacher else {}),
            }
        )
    return pd.DataFrame(rows)


def _pull(history: pd.DataFrame) -> dict[str, float]:
    """Geometric mean over epochs of the gradient ratio, and mean cosine."""
    ratio = history.loc[history["metric"] == "train/gradient_ratio", "value"]
    cosine = history.loc[history["metric"] == "train/gradient_cosine", "value"]
    if not len(ratio):
        return {}
    return {
        "gradient_ratio": float(np.exp(np.log(np.maximum(ratio, 1e-30)).mean())),
        "gradient_cosine": float(cosine.mean()),
    }


@lru_cache(maxsize=64)
def features_of(run_id: str) -> Mapping[str, np.ndarray]:
    """Logits, labels and pooled features of a run's test images."""
    from labtrail.query import artifact

    return load_file(artifact(run_id, FEATURES))


def measures(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How a network's own features lie, stage by stage."""
    labels = found["labels"][:_IMAGES]
    result: dict[str, Any] = {}
    for stage in STAGES:
        own = found[stage][:_IMAGES]
        result[f"{stage}_effective_dimension"] = participation_ratio(own)
        result[f"{stage}_two_nn"] = two_nn(own)
        result[f"{stage}_knn"] = neighbour_accuracy(own, labels)
        result[f"{stage}_probe"] = probe_accuracy(own, labels)
    return result


def beside(student: Mapping[str, np.ndarray], teacher: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How like its teacher a student is: features of all pairs of stages, and errors."""
    result = {}
    for own in STAGES:
        for given in STAGES:
            pair = student[own][:_IMAGES], teacher[given][:_IMAGES]
            result[f"cka_{own[-1]}{given[-1]}"] = debiased_cka(*(one.astype(float) for one in pair))
    last = student[STAGES[-1]][:_IMAGES], teacher[STAGES[-1]][:_IMAGES]
    result["rsa"] = rdm_correlation(*(dissimilarities(one.astype(float)) for one in last))
    result["procrustes"] = procrustes_distance(*last)
    wrong = [one["logits"].argmax(axis=1) != one["labels"] for one in (student, teacher)]
    result["error_overlap"] = error_overlap(*wrong)
    return result


def correct(run_id: str) -> np.ndarray:
    """Which test images a run has right, bool, (n,)."""
    found = features_of(run_id)
    return found["logits"].argmax(axis=1) == found["labels"]

"""What finished runs left behind, as frames: one row per run, with its measures and those beside its teacher."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from tqdm import tqdm

import labtrail as lt
from labtrail.statistics import debiased_cka, dissimilarities, rdm_correlation
from projects.distill.config import ALONE
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
_RECIPE = ("cfg.data.", "cfg.model.", "cfg.train.", "cfg.compute.precision")
_PULLS = ("train/gradient_ratio", "train/gradient_cosine")
_METRICS = ("accuracy", "accuracy_last", "nll", "brier", "ece", "teacher_agreement")


def collect(run_ids: Sequence[str]) -> pd.DataFrame:
    """A row per run: data, recipe, arm, method, alpha, seed, model, teacher, test metrics, pull, and geometry.

    A recipe is what a student and its baseline share (images held out, network, optimisation), an arm is a method with
    the settings of its loss; both are told by what the runs differ in. Of repeats of a run the newest counts.

    Args:
        run_ids: finished distill runs.

    Raises:
        DataError: runs of one data set and recipe were tested on other images.
    """
    runs = lt.newest_of_each(lt.Query("distill").only(run_ids).runs())
    differ = lt.varying(runs)
    recipes = lt.group_names(runs, [key for key in differ if key.startswith(_RECIPE) and key != "cfg.data.name"])
    losses = lt.group_names(runs, [key for key in differ if key.startswith("cfg.loss.")])
    query = lt.Query("distill").only(run_ids)
    pulls = query.history([name for name in _PULLS if name in query.metrics()])
    rows = []
    for place, run in tqdm(list(runs.iterrows()), desc="runs", unit="run", leave=False, disable=None):
        teacher = str(run["cfg.teacher"])
        rows.append(
            {
                "run_id": run["run_id"],
                "data": run["cfg.data.name"],
                "recipe": recipes[place],
                "arm": _arm(str(run["cfg.method"]), losses[place]),
                "method": run["cfg.method"],
                "alpha": float(run["cfg.alpha"]),
                "seed": int(run["cfg.seed"]),
                "model": run["cfg.model.name"],
                "teacher": teacher,
                **{name: run.get(f"test/{name}") for name in _METRICS},
                **_gradient_comparison(pulls[pulls["run_id"] == run["run_id"]]),
                **measures(features_of(run["run_id"])),
                **(compare_with_teacher(features_of(run["run_id"]), features_of(teacher)) if teacher else {}),
            }
        )
    run_table = pd.DataFrame(rows)
    for (data, _), group in lt.grouped(run_table, ["data", "recipe"]):
        labels = {features_of(run_id)["labels"].tobytes() for run_id in group["run_id"]}
        if len(labels) > 1:
            raise lt.DataError(f"data {data}: the runs were tested on different images; name runs of one data set")
    return run_table


def _arm(method: str, loss: str) -> str:
    """A method with the settings of its loss, where runs differ in them; without a teacher there is no such loss."""
    return method if method in ALONE or not loss else f"{method} ({loss})"


def _gradient_comparison(history: pd.DataFrame) -> dict[str, float]:
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
    return load_file(lt.artifact(run_id, FEATURES))


def measures(features_by_stage: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How a network's own features lie, stage by stage."""
    labels = features_by_stage["labels"][:_IMAGES]
    result: dict[str, Any] = {}
    for stage in STAGES:
        features = features_by_stage[stage][:_IMAGES]
        result[f"{stage}_effective_dimension"] = participation_ratio(features)
        result[f"{stage}_two_nn"] = two_nn(features)
        result[f"{stage}_knn"] = neighbour_accuracy(features, labels)
        result[f"{stage}_probe"] = probe_accuracy(features, labels)
    return result


def compare_with_teacher(student: Mapping[str, np.ndarray], teacher: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How like its teacher a student is: features of all pairs of stages, and errors."""
    result = {}
    for student_stage in STAGES:
        for teacher_stage in STAGES:
            pair = student[student_stage][:_IMAGES], teacher[teacher_stage][:_IMAGES]
            result[f"cka_{student_stage[-1]}{teacher_stage[-1]}"] = debiased_cka(
                *(features.astype(float) for features in pair)
            )
    last = student[STAGES[-1]][:_IMAGES], teacher[STAGES[-1]][:_IMAGES]
    result["rsa"] = rdm_correlation(*(dissimilarities(features.astype(float)) for features in last))
    result["procrustes"] = procrustes_distance(*last)
    wrong = [features["logits"].argmax(axis=1) != features["labels"] for features in (student, teacher)]
    result["error_overlap"] = error_overlap(*wrong)
    return result


def correct(run_id: str) -> np.ndarray:
    """Which test images a run has right, bool, (n,)."""
    answers = features_of(run_id)
    return answers["logits"].argmax(axis=1) == answers["labels"]

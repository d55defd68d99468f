"""Probabilities of windows, and the numbers that sum them up."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from scipy.special import log_softmax, softmax
from sklearn.metrics import f1_score
from torch import Tensor

from labtrail.statistics import expected_calibration_error
from projects.pamap2.inputs import NAMES, DeviceWindows
from projects.pamap2.model import FusionModel

_BATCH = 256
ALL_PRESENT = (True,) * len(NAMES)


@torch.inference_mode()
def predict(
    model: FusionModel,
    resident: DeviceWindows,
    starts: np.ndarray,
    accelerator: Accelerator,
    present: Sequence[bool] = ALL_PRESENT,
    disturb: Callable[[Tensor], Tensor] = lambda part: part,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits of windows, and the share of each modality in the decision where the fusion has one.

    Args:
        model: set to evaluation mode.
        resident: the rows.
        starts: first row of each window, shape (n,).
        accelerator: gives the precision.
        present: which modalities are there, in the order of ``inputs.NAMES``.
        disturb: what is done to each modality's normalised windows before they are read.

    Returns:
        Shapes (n, classes) and (n, 4), float32.
    """
    model.eval()
    logits, shares = [], []
    for begin in range(0, len(starts), _BATCH):
        raw, _ = resident.windows(starts[begin : begin + _BATCH])
        mask = torch.tensor([list(present)], device=raw.device).expand(len(raw), -1)
        with accelerator.autocast():
            out = model([disturb(part) for part in resident.normalised(raw)], mask)
        logits.append(out.logits.float().cpu())
        if out.shares is not None:
            shares.append(out.shares.float().cpu())
    return torch.cat(logits).numpy(), torch.cat(shares).numpy() if shares else None


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Macro F1 over the classes that the labels have, accuracy, negative log likelihood, Brier score and ECE.

    Args:
        logits: shape (n, classes).
        labels: shape (n,), class indices.
    """
    guesses, chances = logits.argmax(axis=1), softmax(logits.astype(float), axis=1)
    truth = np.eye(logits.shape[1])[labels]
    rows = np.arange(len(labels))
    return {
        "macro_f1": macro_f1(labels, guesses),
        "accuracy": float((guesses == labels).mean()),
        "nll": float(-log_softmax(logits.astype(float), axis=1)[rows, labels].mean()),
        "brier": float(((chances - truth) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(chances, labels),
    }


def macro_f1(labels: np.ndarray, guesses: np.ndarray) -> float:
    """Mean F1 over the classes among the labels; a class that is only guessed costs precision elsewhere."""
    return float(f1_score(labels, guesses, labels=np.unique(labels), average="macro", zero_division=0.0))

"""What a network says about images, and the numbers that sum it up."""

from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from scipy.special import log_softmax, softmax
from torch import nn

from labtrail.statistics import expected_calibration_error
from projects.distill.data import DeviceImages

# Artifact of a run: what its network says about the test images.
FEATURES = "features/test.safetensors"
_BATCH = 500


class Predictions(NamedTuple):
    """All images of one split.

    Attributes:
        logits: shape (N, K), float32.
        labels: shape (N,), int64.
        stages: each stage's features, mean over pixels: (N, C), (N, 2C), (N, 4C), float32.
    """

    logits: np.ndarray
    labels: np.ndarray
    stages: tuple[np.ndarray, ...]


@torch.inference_mode()
def predict(model: nn.Module, images: DeviceImages, accelerator: Accelerator) -> Predictions:
    """Logits and pooled features of every image in the run's precision; the model is left in evaluation mode."""
    model.eval()
    logits, stages = [], []
    for begin in range(0, len(images), _BATCH):
        index = torch.arange(begin, min(begin + _BATCH, len(images)))
        with accelerator.autocast():
            out = model(images.normalized(index))
        logits.append(out.logits.float().cpu())
        stages.append([stage.float().mean((2, 3)).cpu() for stage in out.stages])
    joined = tuple(torch.cat(parts).numpy() for parts in zip(*stages, strict=True))
    return Predictions(torch.cat(logits).numpy(), images.labels.cpu().numpy(), joined)


def scores(answers: Predictions) -> dict[str, float]:
    """Accuracy, negative log likelihood, Brier score and expected calibration error."""
    logits, labels = answers.logits.astype(float), answers.labels
    chances, rows = softmax(logits, axis=1), np.arange(len(labels))
    truth = np.eye(logits.shape[1])[labels]
    return {
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
        "nll": float(-log_softmax(logits, axis=1)[rows, labels].mean()),
        "brier": float(((chances - truth) ** 2).sum(axis=1).mean()),
        "ece": expected_calibration_error(chances, labels),
    }


def features_file(answers: Predictions) -> bytes:
    """Labels, logits and pooled features of the test images, as an analysis reads them."""
    stages = {f"stage_{index}": torch.from_numpy(stage) for index, stage in enumerate(answers.stages, start=1)}
    return save({"logits": torch.from_numpy(answers.logits), "labels": torch.from_numpy(answers.labels), **stages})

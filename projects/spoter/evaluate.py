"""Predictions of a split, and the numbers that sum them up."""

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from labtrail.statistics import top_k_correct, wilson
from projects.spoter.batches import Inputs, passes


def predict(model: nn.Module, inputs: Inputs, classes: int, max_frames: int, accelerator: Accelerator) -> np.ndarray:
    """Logits of every clip of a split, shape (clips, classes), float32, the same on every rank.

    The ranks share the passes.
    """
    place = (accelerator.process_index, accelerator.num_processes)
    logits = logits_of(accelerator.unwrap_model(model), inputs, classes, max_frames, *place)
    return accelerator.reduce(logits, "sum").cpu().numpy()


@torch.inference_mode()
def logits_of(
    network: nn.Module, inputs: Inputs, classes: int, max_frames: int, rank: int = 0, world: int = 1
) -> Tensor:
    """Logits of one rank's share of a split, (clips, classes), float32, 0 elsewhere; sets evaluation mode."""
    network.eval()
    logits = torch.zeros(len(inputs.lengths), classes, device=inputs.frames.device)
    for index, batch in enumerate(passes(inputs, max_frames)):
        if index % world == rank:
            rows = torch.from_numpy(batch.clips).to(logits.device)
            logits[rows] = network(batch.frames, batch.layout).float()
    return logits


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss, top-1 and top-5 accuracy of a split; logits (clips, classes), labels (clips,)."""
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))
    return {
        "loss": float(loss),
        "accuracy": top_k_correct(logits, labels, 1) / len(labels),
        "accuracy_top5": top_k_correct(logits, labels, 5) / len(labels),
    }


def interval(name: str, accuracy: float, clips: int) -> dict[str, float]:
    """The 95 % Wilson interval of an accuracy, as ``name_low`` and ``name_high``."""
    low, high = wilson(round(accuracy * clips), clips)
    return {f"{name}_low": low, f"{name}_high": high}

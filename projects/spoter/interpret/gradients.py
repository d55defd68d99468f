"""Attribution by gradients and by weights: integrated gradients of the input, query-key weights by joint."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from projects.spoter.batches import Inputs, passes
from projects.spoter.config import ModelConfig
from projects.spoter.model import Layout, Spoter
from projects.spoter.skeleton import JOINT_COUNT

# Packed frames (N, 108) and their layout to logits (B, C).
Network = Callable[[Tensor, Layout], Tensor]


def centred(logits: Tensor) -> Tensor:
    """Logits minus their mean over classes, which the softmax does not see; (B, C)."""
    return logits - logits.mean(dim=1, keepdim=True)


def target_logit(model: Network, frames: Tensor, layout: Layout, targets: Tensor) -> Tensor:
    """The centred logit of each clip's target class, (B,)."""
    return centred(model(frames, layout)).gather(1, targets[:, None])[:, 0]


class Attribution(NamedTuple):
    """Integrated gradients of a split.

    Attributes:
        values: shape (N, 108), float32; they sum over a clip to the change of its target logit from the baseline.
        error: shape (clips,); how far that sum is off, in logits (the quadrature's error).
    """

    values: Tensor
    error: np.ndarray


def integrated_gradients(
    model: Network, inputs: Inputs, targets: np.ndarray, baseline: Tensor, steps: int, max_frames: int
) -> Attribution:
    """Integrated gradients (Sundararajan et al. 2017) by the midpoint rule.

    Args:
        model: in evaluation mode.
        inputs: the split.
        targets: class whose centred logit is explained, shape (clips,).
        baseline: one frame, shape (108,), that every frame of every clip starts from.
        steps: points on the straight line from the baseline to the clip.
        max_frames: frames computed at once.
    """
    values = torch.empty_like(inputs.frames)
    error = np.empty(len(targets))
    bar = tqdm(total=len(targets), desc="gradients", unit="clip", leave=False, disable=None)
    for batch in passes(inputs, max_frames):
        chosen = torch.from_numpy(targets[batch.clips]).to(batch.frames.device)
        difference = batch.frames - baseline
        total = torch.zeros_like(batch.frames)
        for step in range(steps):
            point = (baseline + difference * ((step + 0.5) / steps)).requires_grad_()
            (gradient,) = torch.autograd.grad(target_logit(model, point, batch.layout, chosen).sum(), point)
            total += gradient
        attribution = difference * total / steps
        with torch.inference_mode():
            whole, none = (
                target_logit(model, frames, batch.layout, chosen)
                for frames in (batch.frames, baseline.expand_as(batch.frames))
            )
        parts = attribution.split(inputs.lengths[batch.clips].tolist())
        for place, (clip, part) in enumerate(zip(batch.clips, parts, strict=True)):
            first = int(inputs.starts[clip])
            values[first : first + len(part)] = part
            error[clip] = float(part.sum() - (whole[place] - none[place]))
        bar.update(len(batch.clips))
    bar.close()
    return Attribution(values, np.abs(error))


def query_key_norms(model: Spoter) -> np.ndarray:
    """How strongly each head of the first encoder layer reads each joint, as query and as key; (2, H, 54).

    Frobenius norms of a joint's two rows (query side) and columns (key side) of W_q^T W_k / sqrt(E). Later
    layers mix the joints, so only the first one's columns have names.
    """
    weight = model.attentions()["enc_0"].in_proj_weight.detach().double()
    width = weight.shape[1]
    query, key = (part.view(model.heads, -1, width) for part in (weight[:width], weight[width : 2 * width]))
    form = query.transpose(1, 2) @ key / query.shape[1] ** 0.5
    rows = form.view(model.heads, JOINT_COUNT, 2 * width).norm(dim=2)
    columns = form.transpose(1, 2).reshape(model.heads, JOINT_COUNT, 2 * width).norm(dim=2)
    return torch.stack([rows, columns]).numpy()


def untrained_norms(config: ModelConfig, classes: int, draws: int, seed: int) -> np.ndarray:
    """``query_key_norms`` of freshly drawn networks: the null, shape (draws, 2, H, 54)."""
    small = config.model_copy(update={"layers": 1})
    norms = []
    for draw in range(draws):
        torch.manual_seed(seed + draw)
        norms.append(query_key_norms(Spoter(small, classes)))
    return np.stack(norms)

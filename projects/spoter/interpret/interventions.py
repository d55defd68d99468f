"""What changes when something is taken away: a head, the most important frames, a group of joints.

The network sees a set of frames, so a clip without some of its frames is a legal input: deletion needs no
stand-in for what was deleted.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from projects.spoter.batches import Batch, Inputs, passes
from projects.spoter.interpret.gradients import Network, centred, target_logit
from projects.spoter.model import Attention, Layout, Spoter
from projects.spoter.skeleton import HAND, HANDS, JOINTS

_ARM = ("Shoulder", "Elbow", "Wrist")
GROUPS: dict[str, list[int]] = {
    "head": [JOINTS.index(name) for name in ("nose", "neck", "rightEye", "leftEye", "rightEar", "leftEar")],
    "right arm": [JOINTS.index(f"right{part}") for part in _ARM],
    "left arm": [JOINTS.index(f"left{part}") for part in _ARM],
    "left hand": list(range(*HANDS[0].indices(len(JOINTS)))),
    "right hand": list(range(*HANDS[1].indices(len(JOINTS)))),
    "fingertips": [JOINTS.index(f"{name}_{side}") for side in (0, 1) for name in HAND if name.endswith("Tip")],
}
FRACTIONS = np.arange(10) / 10


@contextmanager
def head_removed(attention: Attention, head: int) -> Generator[None]:
    """Takes one head's output away (the mask of Michel et al. 2019) by zeroing its columns of the projection."""
    weight = attention.out_proj.weight
    size = weight.shape[1] // attention.heads
    columns = slice(head * size, (head + 1) * size)
    kept = weight.detach()[:, columns].clone()
    try:
        weight.data[:, columns] = 0.0
        yield
    finally:
        weight.data[:, columns] = kept


@torch.inference_mode()
def ablate_heads(model: Spoter, inputs: Inputs, targets: np.ndarray, max_frames: int) -> np.ndarray:
    """Change of each clip's centred target logit without each head, shape (clips, modules, heads); encoder first."""
    encoder, attentions = model.transformer.encoder.layers, model.attentions()
    changes = np.empty((len(targets), len(attentions), model.heads))
    bar = tqdm(total=len(targets), desc="ablation", unit="clip", leave=False, disable=None)
    for batch in passes(inputs, max_frames):
        chosen = torch.from_numpy(targets[batch.clips]).to(batch.frames.device)[:, None]

        def logit(memory: Tensor, batch: Batch = batch, chosen: Tensor = chosen) -> Tensor:
            class_logits = model.linear_class(model.decode(memory, batch.layout))
            return centred(class_logits).gather(1, chosen)[:, 0]

        entering = [model.embed(batch.frames, batch.layout)]
        for layer in encoder:
            entering.append(layer(entering[-1], batch.layout))
        memory = model.transformer.encoder.norm(entering.pop())
        whole = logit(memory)
        for head in range(model.heads):
            for column, (name, attention) in enumerate(attentions.items()):
                with head_removed(attention, head):
                    if name.startswith("enc"):
                        without = logit(model.encode_from(column, entering[column], batch.layout))
                    else:
                        without = logit(memory)
                changes[batch.clips, column, head] = (without - whole).cpu()
        bar.update(len(batch.clips))
    bar.close()
    return changes


@torch.inference_mode()
def deletion_curves(
    model: Network, clip: Tensor, target: int, importance: Mapping[str, np.ndarray], max_frames: int
) -> dict[str, np.ndarray]:
    """Probability of the target class as the most important frames are left out (Petsiuk et al. 2018).

    Args:
        model: in evaluation mode.
        clip: shape (T, 108).
        target: class.
        importance: method -> importance of each frame, shape (T,) or, for several orders to be averaged, (k, T).
        max_frames: frames computed at once.

    Returns:
        Method -> probability at each of ``FRACTIONS``, shape (10,); at least one frame always stays.
    """
    frames = len(clip)
    kept_counts = np.maximum(1, frames - np.floor(FRACTIONS * frames + 1e-9).astype(int))
    orders = {name: np.argsort(np.atleast_2d(values), axis=1, kind="stable") for name, values in importance.items()}
    # The least important come first in the order, so each subset is its beginning, put back into time.
    subsets = [np.sort(order[:count]) for rows in orders.values() for order in rows for count in kept_counts]
    probabilities = _probabilities(model, clip, target, subsets, max_frames)
    curves, start = {}, 0
    for name, rows in orders.items():
        size = len(rows) * len(FRACTIONS)
        curves[name] = probabilities[start : start + size].reshape(len(rows), -1).mean(axis=0)
        start += size
    return curves


def _probabilities(
    model: Network, clip: Tensor, target: int, subsets: Sequence[np.ndarray], max_frames: int
) -> np.ndarray:
    probabilities = np.empty(len(subsets))
    lengths = np.array([len(subset) for subset in subsets])
    starts = np.cumsum(lengths) - lengths
    rows = torch.from_numpy(np.concatenate(subsets)).to(clip.device)
    several = Inputs(clip[rows], lengths, starts, torch.zeros(len(subsets), dtype=torch.int64, device=clip.device))
    for batch in passes(several, max_frames):
        logits = model(batch.frames, batch.layout)
        probabilities[batch.clips] = logits.softmax(1)[:, target].cpu()
    return probabilities


def area_under(curve: np.ndarray) -> np.ndarray:
    """Area under deletion curves by trapezoids, over the fractions' range; (..., 10) to (...)."""
    return np.trapezoid(curve, FRACTIONS, axis=-1) / (FRACTIONS[-1] - FRACTIONS[0])


@torch.inference_mode()
def occlude_joints(
    model: Network,
    inputs: Inputs,
    targets: np.ndarray,
    groups: Sequence[Sequence[int]],
    filling: Tensor,
    max_frames: int,
) -> np.ndarray:
    """Change of each clip's centred target logit with some joints replaced in every frame, (groups, clips).

    Args:
        model: in evaluation mode.
        inputs: the split.
        targets: class of each clip whose logit is watched.
        groups: indices of the joints that are replaced together.
        filling: one frame, shape (108,), whose values they get.
        max_frames: frames computed at once.
    """
    changes = np.empty((len(groups), len(targets)))
    bar = tqdm(total=len(targets), desc="occlusion", unit="clip", leave=False, disable=None)
    for batch in passes(inputs, max_frames):
        chosen = torch.from_numpy(targets[batch.clips]).to(batch.frames.device)
        whole = target_logit(model, batch.frames, batch.layout, chosen)
        for place, joints in enumerate(groups):
            both = [2 * joint + axis for joint in joints for axis in (0, 1)]
            columns = torch.tensor(both, dtype=torch.int64, device=filling.device)
            occluded = batch.frames.clone()
            occluded[:, columns] = filling[columns]
            changes[place, batch.clips] = (target_logit(model, occluded, batch.layout, chosen) - whole).cpu()
        bar.update(len(batch.clips))
    bar.close()
    return changes


@torch.inference_mode()
def order_sensitivity(model: Spoter, inputs: Inputs, clips: Sequence[int], seed: int) -> float:
    """Largest change of any logit when the frames of a clip are reversed or shuffled, over some clips.

    For a network without temporal encoding this is rounding only: it then says, of this very checkpoint, that
    nothing in it can be about time.
    """
    generator = torch.Generator().manual_seed(seed)
    largest = 0.0
    for clip in clips:
        start, length = int(inputs.starts[clip]), int(inputs.lengths[clip])
        frames = inputs.frames[start : start + length]
        layout = Layout.of([length], frames.device)
        whole = model(frames, layout)
        shuffled = torch.randperm(length, generator=generator).to(frames.device)
        for order in (shuffled, torch.arange(length - 1, -1, -1, device=frames.device)):
            largest = max(largest, float((model(frames[order], layout) - whole).abs().max()))
    return largest

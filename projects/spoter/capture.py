"""The attention weights of every head for every clip of a split, from masked batches.

The weights are computed beside the fused attention, so the network's output is the same to the bit as
without them; padding gets exactly no mass and is cut off before anything is kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from projects.spoter.batches import Inputs, passes
from projects.spoter.model import Spoter


@dataclass(frozen=True)
class Captured:
    """Attention of a split, one flat tensor per module: clip after clip, head-major.

    Attributes:
        weights: ``enc_0`` .. ``dec_5`` -> flat tensor; a clip's part has shape (H, T, T) or (H, 1, T).
        heads: H.
        frames: T of each clip, shape (clips,), int64.
        logits: shape (clips, classes), the network's output in its own dtype.
    """

    weights: dict[str, Tensor]
    heads: int
    frames: np.ndarray
    logits: Tensor

    @property
    def modules(self) -> list[str]:
        """Names of the modules, encoder first."""
        return in_order(self.weights)

    def clip(self, index: int) -> dict[str, np.ndarray]:
        """Weights of one clip: module -> (H, queries, T), float32."""
        length = int(self.frames[index])
        weights = {}
        for name, flat in self.weights.items():
            offsets = offsets_of(self.frames, self.heads, name)
            part = flat[offsets[index] : offsets[index + 1]]
            weights[name] = part.view(self.heads, -1, length).float().numpy()
        return weights


def in_order(names: Iterable[str]) -> list[str]:
    """Names of attention modules by stack and layer: enc_0 .. enc_5, dec_0 .. dec_5."""
    return sorted(names, key=lambda name: (not name.startswith("enc"), int(name[4:])))


def offsets_of(frames: np.ndarray, heads: int, name: str) -> np.ndarray:
    """Where each clip's part begins in a module's flat tensor, shape (clips + 1,), int64."""
    sizes = heads * frames * (frames if name.startswith("enc") else 1)
    return np.concatenate([[0], np.cumsum(sizes)])


@torch.inference_mode()
def capture(model: Spoter, inputs: Inputs, max_frames: int, dtype: torch.dtype = torch.float16) -> Captured:
    """Runs a split through the network and keeps the weights of all its attention modules.

    Args:
        model: in evaluation mode.
        inputs: the split.
        max_frames: frames computed at once; clips of like length go together.
        dtype: of the kept weights.

    Raises:
        ValueError: the network is in train mode, where dropout would change both weights and output.
    """
    if model.training:
        raise ValueError("attention is captured in evaluation mode only; call model.eval() first")
    heads = model.heads
    offsets = {kind: offsets_of(inputs.lengths, heads, kind) for kind in ("enc", "dec")}
    weights: dict[str, Tensor] = {}
    logits: list[Tensor] = []
    bar = tqdm(total=len(inputs.lengths), desc="attention", unit="clip", leave=False, disable=None)
    order = []
    for batch in passes(inputs, max_frames):
        keep = _keeper(weights, offsets, batch.clips, inputs.lengths, dtype)
        logits.append(model(batch.frames, batch.layout, keep).cpu())
        order.append(batch.clips)
        bar.update(len(batch.clips))
    bar.close()
    sorted_logits = torch.cat(logits)
    rows = torch.empty_like(sorted_logits)
    rows[torch.from_numpy(np.concatenate(order))] = sorted_logits
    return Captured(weights, heads, inputs.lengths, rows)


def _keeper(
    weights: dict[str, Tensor],
    offsets: dict[str, np.ndarray],
    clips: np.ndarray,
    lengths: np.ndarray,
    dtype: torch.dtype,
) -> Callable[[str, Tensor], None]:
    """An observer that copies the real part of each clip's weights to its place."""

    def keep(name: str, weights_BHQT: Tensor) -> None:
        starts = offsets[name[:3]]
        if name not in weights:
            weights[name] = torch.empty(int(starts[-1]), dtype=dtype)
        # Converted whole and copied as NumPy arrays: both run along memory, element by element they would not.
        host, target = weights_BHQT.to(dtype).cpu().numpy(), weights[name].numpy()
        for place, clip in enumerate(clips):
            length = int(lengths[clip])
            part = host[place, :, :length, :length]
            target[starts[clip] : starts[clip + 1]].reshape(part.shape)[:] = part

    return keep

"""One training step of SPOTER on made-up clips."""

import numpy as np
import torch
from torch import Tensor, nn

import labtrail as lt
from projects.spoter.config import SpoterConfig
from projects.spoter.model import Layout, Spoter
from projects.spoter.skeleton import FRAME_SIZE
from projects.spoter.train import update_loss

# As in WLASL100.
_CLASSES = 100


def example(config: SpoterConfig, batch_size: int) -> lt.Example:
    """Clips of half to three halves of ``data.synthetic.frames`` frames, packed, in an update of one pass."""
    random = np.random.default_rng(config.seed)
    mean = config.data.synthetic.frames
    lengths = random.integers(mean - mean // 2, mean + mean // 2 + 1, batch_size).tolist()
    batch = {
        "frames": torch.randn(sum(lengths), FRAME_SIZE),
        "layout": Layout.of(lengths, torch.device("cpu")),
        "labels": torch.randint(0, _CLASSES, (batch_size,)),
        "weights": torch.full((batch_size,), 1 / batch_size),
    }

    def loss(model: nn.Module, batch: dict) -> Tensor:
        return update_loss(config.train.label_smoothing, model, batch)[0]

    return lt.Example(Spoter(config.model, _CLASSES), batch, loss)

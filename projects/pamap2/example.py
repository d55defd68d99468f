"""One training step of the fusion network on made-up windows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import labtrail as lt
from projects.pamap2.config import Pamap2Config
from projects.pamap2.model import FusionModel
from projects.pamap2.schema import MODALITIES
from projects.pamap2.train import drawn_subsets, window_loss

# The activities of the published protocol.
_CLASSES = 12


def example(config: Pamap2Config, batch_size: int) -> lt.Example:
    """Windows of ``split.window`` rows of every modality; missing ones are drawn as in training."""
    channels = [len(names) for names in MODALITIES.values()]
    windows = [torch.randn(batch_size, config.split.window, count) for count in channels]
    labels = torch.randint(0, _CLASSES, (batch_size,))
    model = FusionModel(config.model, channels, _CLASSES)
    generator = torch.Generator().manual_seed(config.seed)
    batch = {"windows": windows, "labels": labels, "kept": drawn_subsets(model, labels, len(windows), generator)}

    def loss(network: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        assert isinstance(network, FusionModel)
        smoothing = config.train.label_smoothing
        return window_loss(network, batch["windows"], batch["labels"], None, smoothing, batch["kept"])[0]

    return lt.Example(model, batch, loss)

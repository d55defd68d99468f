"""One training step of the fusion network on made-up windows."""

import torch
from torch import Tensor, nn

from labtrail.example import Example
from projects.pamap2.config import Pamap2Config
from projects.pamap2.model import FusionModel
from projects.pamap2.schema import MODALITIES
from projects.pamap2.train import window_loss

# The activities of the published protocol.
_CLASSES = 12


def example(config: Pamap2Config, batch_size: int) -> Example:
    """Windows of ``split.window`` rows of every modality; missing ones are drawn as in training."""
    channels = [len(names) for names in MODALITIES.values()]
    windows = [torch.randn(batch_size, config.split.window, count) for count in channels]
    labels = torch.randint(0, _CLASSES, (batch_size,))
    generator = torch.Generator().manual_seed(config.seed)

    def loss(model: nn.Module, given: tuple[list[Tensor], Tensor]) -> Tensor:
        assert isinstance(model, FusionModel)
        return window_loss(model, *given, None, config.train.label_smoothing, generator)[0]

    return Example(FusionModel(config.model, channels, _CLASSES), (windows, labels), loss)

"""A small network with a bit of everything, for tours and tests: convolution, batch norm, dropout, a tied weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import labtrail as lt

_CHANNELS, _PIXELS, _CLASSES, _WIDTH = 3, 16, 10, 16


class Tiny(nn.Module):
    """Images (B, 3, 16, 16) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(_CHANNELS, _WIDTH, 3, padding=1)
        self.second = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(_WIDTH) for _ in range(2))
        self.dropout = nn.Dropout(0.1)
        self.mix, self.again = nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
        self.again.weight = self.mix.weight
        self.classify = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits."""
        x = F.relu(self.norms[0](self.first(x_BCHW)))
        x = F.relu(self.norms[1](self.second(x)) + x)
        x_BD = self.dropout(x.mean((2, 3)))
        return self.classify(self.again(F.relu(self.mix(x_BD))))


def tiny_example(batch_size: int) -> lt.Example:
    """One step on random images."""
    images = torch.randn(batch_size, _CHANNELS, _PIXELS, _PIXELS)
    labels = torch.randint(0, _CLASSES, (batch_size,))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    return lt.Example(Tiny(), (images, labels), loss)

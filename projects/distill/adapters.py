"""Trainable parts that some methods need beside the student; they are left behind when it is done.

Shape suffixes: B samples, C channels, H and W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.1
# Variance 5 at the start: softplus(rho) + 1e-5 = 5.
_FIRST_VARIANCE = 5.0


class Translator(nn.Module):
    """Features to factors: three 3x3 convolutions, C -> C -> M -> M, each with LeakyReLU (Kim et al. 2018, fig. 2)."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv1 = nn.Conv2d(channels, factors, 3, padding=1)
        self.conv2 = nn.Conv2d(factors, factors, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Factors (B, M, H, W)."""
        for layer in (self.conv0, self.conv1, self.conv2):
            x_BCHW = F.leaky_relu(layer(x_BCHW), _SLOPE)
        return x_BCHW


class Paraphraser(Translator):
    """A translator with the way back, trained to reconstruct the teacher's features."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__(channels, factors)
        self.deconv0 = nn.ConvTranspose2d(factors, factors, 3, padding=1)
        self.deconv1 = nn.ConvTranspose2d(factors, channels, 3, padding=1)
        self.deconv2 = nn.ConvTranspose2d(channels, channels, 3, padding=1)

    def reconstruct(self, x_BCHW: Tensor) -> Tensor:
        """Features from their factors, shape as the input."""
        y_BCHW = self(x_BCHW)
        for layer in (self.deconv0, self.deconv1, self.deconv2):
            y_BCHW = F.leaky_relu(layer(y_BCHW), _SLOPE)
        return y_BCHW


class Regressor(nn.Module):
    """Predicts a teacher's stage: three 1x1 convolutions and one scale per channel (Ahn et al. 2019, section 3)."""

    def __init__(self, channels: int, wanted: int) -> None:
        super().__init__()
        hidden = 2 * wanted
        self.predict = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, wanted, 1, bias=False),
        )
        self.rho = nn.Parameter(torch.full((wanted,), _FIRST_VARIANCE - 1e-5).expm1().log())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The predicted mean (B, wanted, H, W)."""
        return self.predict(x_BCHW)

"""The CIFAR ResNet (He et al. 2016, section 4.2): three stages of features, and logits.

Shape suffixes: B samples, C channels, H and W pixels, K classes, D features.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from projects.distill.config import ModelConfig

# Blocks of each of the three stages.
BLOCKS: Mapping[str, int] = {
    "resnet8": 1,
    "resnet14": 2,
    "resnet20": 3,
    "resnet32": 5,
    "resnet56": 9,
    "resnet110": 18,
    "resnet112": 18,
}


class Output(NamedTuple):
    """What a network says about a batch.

    Attributes:
        stages: the features after each stage, (B, C, H, W), (B, 2C, H/2, W/2), (B, 4C, H/4, W/4).
        pooled: the last stage's mean over pixels, (B, 4C).
        logits: (B, K).
    """

    stages: tuple[Tensor, Tensor, Tensor]
    pooled: Tensor
    logits: Tensor


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images (B, C, H, W) to ``Output``."""

    def __init__(self, config: ModelConfig, channels: int, classes: int) -> None:
        super().__init__()
        self.widths = tuple(config.width * factor for factor in (1, 2, 4))
        self.conv1 = nn.Conv2d(channels, self.widths[0], 3, 1, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(self.widths[0])
        self.stages = nn.ModuleList()
        inputs = self.widths[0]
        for index, width in enumerate(self.widths):
            blocks = [Block(inputs, width, 2 if index else 1)]
            blocks += [Block(width, width, 1) for _ in range(BLOCKS[config.name] - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width
        self.classify = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Output:
        """Features after every stage, and logits."""
        x = F.relu(self.bn1(self.conv1(x_BCHW)))
        first = self.stages[0](x)
        second = self.stages[1](first)
        third = self.stages[2](second)
        pooled_BD = third.mean((2, 3))
        return Output((first, second, third), pooled_BD, self.classify(pooled_BD))


def fused(model: ResNet) -> ResNet:
    """The network for evaluation only, in place: each batch norm becomes part of the convolution before it."""
    model.eval()
    with torch.no_grad():
        model.conv1, model.bn1 = _joined(model.conv1, model.bn1)
        for module in list(model.modules()):
            if isinstance(module, Block):
                module.conv1, module.bn1 = _joined(module.conv1, module.bn1)
                module.conv2, module.bn2 = _joined(module.conv2, module.bn2)
                if isinstance(module.shortcut, nn.Sequential):
                    module.shortcut = _joined(module.shortcut[0], module.shortcut[1])[0]
    return model


def _joined(conv: nn.Module, norm: nn.Module) -> tuple[nn.Conv2d, nn.Identity]:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm), nn.Identity()

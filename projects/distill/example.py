"""One training step of a baseline on made-up CIFAR images."""

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

import labtrail as lt
from projects.distill.config import ALONE, DistillConfig
from projects.distill.learner import Learner

_CHANNELS, _PIXELS, _CLASSES = 3, 32, 10


def example(config: DistillConfig, batch_size: int) -> lt.Example:
    """Images (B, 3, 32, 32) of 10 classes.

    Raises:
        ConfigError: a method with a teacher.
    """
    if config.method not in ALONE:
        raise lt.ConfigError(
            [f"method: {config.method} needs a teacher, which is a run; valid here: {', '.join(ALONE)}"]
        )
    learner = Learner(config, _CHANNELS, _CLASSES)
    images = torch.randn(batch_size, _CHANNELS, _PIXELS, _PIXELS)
    if config.train.channels_last:
        convert_conv2d_weight_memory_format(learner.student, torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, _CLASSES, (batch_size,))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        assert isinstance(model, Learner)
        return model.loss(*model.terms(model.student(batch[0]), None, batch[1]))

    return lt.Example(learner, (images, labels), loss)

"""From a config to a training step: on paper, or with real tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import labtrail as lt
from labtrail.stepgraph import compat
from labtrail.stepgraph.memory import held_by, peak_of
from labtrail.stepgraph.step import TrainingStep, plain_step
from projects.profiler import families
from projects.profiler.clock import clock_of
from projects.profiler.config import OptimizerName, StepConfig
from projects.profiler.families import Sizes

_RATE = 1e-4
# Each reads its step count from a tensor, so that the step can be one graph.
_OPTIMIZERS: Mapping[OptimizerName, Callable[[list[nn.Parameter]], Optimizer]] = {
    "adamw": lambda parameters: AdamW(parameters, lr=_RATE, fused=True),
    "adam": lambda parameters: Adam(parameters, lr=_RATE, fused=True),
    "sgd": lambda parameters: SGD(parameters, lr=_RATE, fused=True),
    "momentum": lambda parameters: SGD(parameters, lr=_RATE, momentum=0.9, fused=True),
    "adagrad": lambda parameters: Adagrad(parameters, lr=_RATE, fused=True),
    "rmsprop": lambda parameters: RMSprop(parameters, lr=_RATE, foreach=False),
}


def on_paper(config: StepConfig, batch_size: int, accelerator: Accelerator) -> TrainingStep:
    """The step on fake tensors: nothing of its size is allocated."""
    return _step(config, paper_example(config, batch_size, accelerator.device), accelerator)


def paper_example(config: StepConfig, batch_size: int, device: torch.device) -> lt.Example:
    """Model, batch and loss on fake tensors."""
    return families.example_on_paper(config.model, config.settings, _sizes(config, batch_size), device)


def in_memory(config: StepConfig, batch_size: int, accelerator: Accelerator) -> TrainingStep:
    """The step with random weights and a made-up batch, the same for the same seed."""
    lt.reseed(config.seed)
    model, batch, loss = families.example(config.model, config.settings, _sizes(config, batch_size))
    device = accelerator.device
    return _step(config, lt.Example(model.to(device), compat.to_device(batch, device), loss), accelerator)


def _sizes(config: StepConfig, batch_size: int) -> Sizes:
    return Sizes(batch_size, config.sequence_length, config.image_size)


def _step(config: StepConfig, example: lt.Example, accelerator: Accelerator) -> TrainingStep:
    """The example in training mode with the config's optimizer, in the accelerator's precision."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        with accelerator.autocast():
            return example.loss(model, batch)

    parameters = [parameter for parameter in example.model.parameters() if parameter.requires_grad]
    optimizer = _OPTIMIZERS[config.optimizer](parameters)
    return TrainingStep(example.model.train(), optimizer, example.batch, plain_step(loss, config.clip_norm))


def eager_figures(step: TrainingStep, config: StepConfig, device: torch.device) -> dict[str, float]:
    """Seconds and peak of the step as it is, without any profiler; gives the optimizer its state."""
    clock = clock_of(device)
    for _ in range(max(1, config.warmup)):
        step.take()
    moments = [clock.now()]
    for _ in range(config.iterations):
        step.take()
        moments.append(clock.now())
    step.clear()
    peak = peak_of(step.take, held_by(step.tensors()), device)
    step.clear()
    return {"step_time_s": float(np.median(np.diff(clock.seconds(moments)))), "peak_bytes_eager": float(peak)}


def give_state(step: TrainingStep, trained: tuple[int, ...]) -> None:
    """Gives the optimizer its state without a forward pass, for steps that do not fit."""
    parameters = step.parameters()
    for index in trained:
        parameters[index].grad = torch.zeros_like(parameters[index])
    step.optimizer.step()
    step.clear()

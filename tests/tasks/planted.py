"""A task that is right, or has one of the common faults by which a resumed run differs."""

import copy
from collections.abc import Generator
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import labtrail as lt

_X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
_Y = (_X.sum(1) > 0).long()
# Of a module: a kill empties it.
_SEEN: list[float] = []


class PlantedConfig(lt.Config):
    """Which fault."""

    epochs: int = 5
    """epochs"""
    fault: Literal[
        "none", "cosine", "one_cycle", "plateau", "average", "swa", "generator", "numpy", "late", "global", "clock"
    ] = "none"
    """what is not kept, or wrong"""


@lt.task(score="train/loss", best="lowest")
def planted(config: PlantedConfig, run: lt.Run) -> Generator[lt.Record]:
    """Learns the sign of a sum."""
    lt.reseed(config.seed)
    model = nn.Linear(8, 2)
    model, optimizer = run.accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
    schedulers = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, 6),
        "one_cycle": lambda: lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=40),
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.3),
    }
    schedule: Any = schedulers[config.fault]() if config.fault in schedulers else None
    averages = {"average": lambda: copy.deepcopy(model), "swa": lambda: swa_utils.AveragedModel(model)}
    average: Any = averages[config.fault]() if config.fault in averages else None
    order, noise = torch.Generator().manual_seed(3), np.random.default_rng(3)
    progress = run.restore(model, optimizer)
    for epoch in range(progress.epoch, config.epochs):
        lt.reseed(config.seed, epoch)
        rows = torch.randperm(64, generator=order) if config.fault == "generator" else torch.randperm(64)
        loss = torch.tensor(0.0)
        for part in rows.split(16):
            loss = nn.functional.cross_entropy(model(_X[part]), _Y[part])
            run.accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if config.fault == "one_cycle":
                schedule.step()
            _follow(average, model)
        value = float(loss.detach())
        if config.fault in ("cosine", "plateau"):
            schedule.step(*([1.0] if config.fault == "plateau" else []))
        if average is not None:
            value = float(nn.functional.cross_entropy(average(_X), _Y).detach())
        if config.fault == "numpy":
            value += noise.random()
        if config.fault == "global":
            _SEEN.append(value)
            value = sum(_SEEN)
        if config.fault == "clock":
            value += torch.Generator().seed() % 1000
        if config.fault != "late":
            progress.epoch = epoch + 1
        yield lt.Record(epoch, {"train/loss": value})
        progress.epoch = epoch + 1


def _follow(average: nn.Module | None, model: nn.Module) -> None:
    if isinstance(average, swa_utils.AveragedModel):
        average.update_parameters(model)
    elif average is not None:
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(value.data, 0.1)

"""A task that fails on demand, for tests of how runs end."""

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

import torch

from labtrail.config import Config
from labtrail.record import Record
from labtrail.running.cli import run_tasks
from labtrail.running.run import Run
from labtrail.running.task import Task


class ToyConfig(Config):
    """What goes wrong, where and when."""

    epochs: int = 4
    """epochs"""
    fault: Literal["none", "raise", "vanish", "hang", "nan"] = "none"
    """what happens"""
    rank: int = 0
    """where"""
    epoch: int = 2
    """when"""
    pause: float = 0.0
    """seconds of work in an epoch"""
    once: str = ""
    """a file: the fault happens only while it does not exist, and creates it"""


def toy(config: ToyConfig, run: Run) -> Generator[Record]:
    """A linear layer that learns nothing."""
    torch.manual_seed(config.seed)
    model = torch.nn.Linear(4, 4)
    model, optimizer = run.accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    progress = run.restore(model, optimizer)
    for epoch in range(progress.epoch, config.epochs):
        if epoch == config.epoch and run.accelerator.process_index == config.rank:
            _fail(config)
        loss = model(torch.ones(2, 4)).square().mean()
        run.accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        time.sleep(config.pause)
        progress.epoch = epoch + 1
        value = float("nan") if config.fault == "nan" and epoch == config.epoch else loss.item()
        yield Record(epoch, {"train/loss": value})


def _fail(config: ToyConfig) -> None:
    if config.once and Path(config.once).exists():
        return
    if config.once:
        Path(config.once).touch()
    if config.fault == "raise":
        raise ValueError("the toy broke")
    if config.fault == "vanish":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.fault == "hang":
        time.sleep(3600)


TASK = Task(name="toy", config=ToyConfig, function=toy, default=Path("toy.yaml"))

if __name__ == "__main__":
    run_tasks([TASK], "tests.toy")

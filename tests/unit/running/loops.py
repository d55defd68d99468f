"""Drives a task function as a session does, and ends it as a kill would."""

from collections.abc import Callable, Generator
from pathlib import Path

import torch
from accelerate import Accelerator

from labtrail.config import Checkpointing
from labtrail.record import Record, Score
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.run import Run
from labtrail.running.watch import Watch

Function = Callable[[Run], Generator[Record]]


class _Killed(BaseException):
    """The process is gone."""


class Killing(Checkpoint):
    """A checkpoint whose process ends right after a number of saves."""

    saves: int | None = None

    def save(self, record: Record, first: Callable[[], None] = lambda: None) -> None:
        before = self.saved_at
        super().save(record, first)
        if self.saves is not None and self.saved_at != before:
            self.flush()
            self.saves -= 1
            if not self.saves:
                raise _Killed


def drive(
    function: Function,
    folder: Path,
    *,
    records: int | None = None,
    saves: int | None = None,
    settings: Checkpointing | None = None,
    said: list[str] | None = None,
) -> list[Record]:
    """Takes Records until the function ends, or stops after some Records or saves as a killed process would.

    Args:
        function: of a task, without its config.
        folder: of its checkpoints.
        records: after how many it is stopped.
        saves: after how many saved states.
        settings: of the checkpoint.
        said: gets what the watch complains of.
    """
    accelerator = Accelerator(cpu=True)
    checkpoint = Killing(
        folder, accelerator, score=Score("train/loss", "minimize"), settings=settings or Checkpointing()
    )
    checkpoint.saves = saves
    run = Run("0" * 32, accelerator, checkpoint, Watch((said if said is not None else []).append))
    taken: list[Record] = []
    steps = function(run)
    run.watch.follow(steps)
    try:
        with run.watch:
            for record in steps:
                run.record_taken()
                checkpoint.note_best(record)
                taken.append(record)
                checkpoint.save(record)
                if len(taken) == records:
                    break
    except _Killed:
        pass
    finally:
        steps.close()
    checkpoint.flush()
    return taken


def line(size: int = 2) -> tuple[torch.nn.Linear, torch.optim.SGD]:
    """The smallest model that can be trained, with an optimizer that has a state."""
    torch.manual_seed(0)
    model = torch.nn.Linear(size, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor | None = None) -> float:
    """One step towards an output of 0; the loss before it."""
    loss = model(torch.ones(3, 2) if batch is None else batch).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())

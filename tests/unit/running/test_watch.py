"""State that a resumed run would begin anew is named after two Records, and what is kept is not."""

import copy
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from labtrail.errors import LabtrailError
from labtrail.record import Record
from labtrail.running.run import Run
from tests.unit.running.loops import drive, line, step

MODULE_LEVEL = np.random.default_rng(0)


class Holder:
    """Keeps things where a task's function does not see them by name."""

    def __init__(self, **things: Any) -> None:
        vars(self).update(things)


def complaints(run_function: Any, folder: Path) -> list[str]:
    said: list[str] = []
    drive(run_function, folder, said=said)
    return said


def _scheduler(run: Run) -> Generator[Record]:
    model, optimizer = line()
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 4)
    for epoch in run.epochs(3, model, optimizer):
        loss = step(model, optimizer)
        scheduler.step()
        yield Record(epoch, {"train/loss": loss})


def _average(run: Run) -> Generator[Record]:
    model, optimizer = line()
    average = copy.deepcopy(model)
    for epoch in run.epochs(3, model, optimizer):
        loss = step(model, optimizer)
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(value.data, 0.1)
        yield Record(epoch, {"train/loss": loss})


def _held_generator(run: Run) -> Generator[Record]:
    model, optimizer = line()
    held: Any = Holder(inner=[Holder(order=torch.Generator().manual_seed(1))])
    for epoch in run.epochs(3, model, optimizer):
        torch.randperm(3, generator=held.inner[0].order)
        yield Record(epoch, {"train/loss": step(model, optimizer)})


def _global_generator(run: Run) -> Generator[Record]:
    model, optimizer = line()
    for epoch in run.epochs(3, model, optimizer):
        MODULE_LEVEL.random()
        yield Record(epoch, {"train/loss": step(model, optimizer)})


def _loader(run: Run) -> Generator[Record]:
    model, optimizer = line()
    data = torch.utils.data.TensorDataset(torch.ones(4, 2))
    loader = torch.utils.data.DataLoader(data, 2, shuffle=True, generator=torch.Generator())
    for epoch in run.epochs(3, model, optimizer):
        losses = [step(model, optimizer, batch) for (batch,) in loader]
        yield Record(epoch, {"train/loss": losses[-1]})


def _second_optimizer(run: Run) -> Generator[Record]:
    model, optimizer = line()
    critic, critic_optimizer = line()
    for epoch in run.epochs(3, model, optimizer, critic=critic):
        step(critic, critic_optimizer)
        yield Record(epoch, {"train/loss": step(model, optimizer)})


def _delegated(run: Run) -> Generator[Record]:
    yield from _average(run)


def _never_restored(run: Run) -> Generator[Record]:
    model, optimizer = line()
    for epoch in range(2):
        yield Record(epoch, {"train/loss": step(model, optimizer)})


def _without_gradients(run: Run) -> Generator[Record]:
    model, optimizer = line()
    for epoch in run.epochs(2, model, optimizer):
        loss = step(model, optimizer)
        with torch.no_grad():
            yield Record(epoch, {"train/loss": loss})


def _never_advanced(run: Run) -> Generator[Record]:
    model, optimizer = line()
    run.restore(model, optimizer)
    for epoch in range(4):
        yield Record(epoch, {"train/loss": step(model, optimizer)})


FAULTS = {
    _scheduler: r"^scheduler \(CosineAnnealingLR\) changes from Record to Record .*test_watch\.py:\d+: scheduler=",
    _average: r"^average \(Linear\) changes",
    _held_generator: r"^held\.inner\[0\]\.order \(Generator\) changes .*: order=held\.inner\[0\]\.order$",
    _global_generator: r"^MODULE_LEVEL \(Generator\) changes",
    _loader: r"^loader\.generator \(Generator\) changes",
    _second_optimizer: r"^critic_optimizer \(SGD\) changes",
    _delegated: r"^average \(Linear\) changes",
    _never_restored: r"test_watch\.py:\d+: an optimizer has taken steps, and restore was never called",
    _without_gradients: r"test_watch\.py:\d+: gradients are switched off where the Record is yielded",
    _never_advanced: r"test_watch\.py:\d+: progress\.epoch stays at 0 from Record to Record",
}


@pytest.mark.parametrize("function", FAULTS, ids=lambda function: function.__name__.strip("_"))
def test_a_fault_is_named_once_with_its_line(function: Any, tmp_path: Path) -> None:
    (said,) = complaints(function, tmp_path)
    assert re.search(FAULTS[function], said), said


def test_an_epoch_that_counts_after_the_yield_is_refused(tmp_path: Path) -> None:
    def function(run: Run) -> Generator[Record]:
        model, optimizer = line()
        progress = run.restore(model, optimizer)
        for epoch in range(progress.epoch, 3):
            yield Record(epoch, {"train/loss": step(model, optimizer)})
            progress.epoch = epoch + 1

    with pytest.raises(LabtrailError, match=r"the state of epoch 1 would be saved as that of epoch 0"):
        drive(function, tmp_path)
    assert not (tmp_path / "last").exists()


def _fine_loop_of_its_own(run: Run) -> Generator[Record]:
    """A first look before training, Records within an epoch, and a last one without training."""
    model, optimizer = line()
    progress = run.restore(model, optimizer)
    if not progress.epoch:
        yield Record(0, {"validation/loss": 1.0})
    for epoch in range(progress.epoch, 4):
        step(model, optimizer)
        progress.epoch = epoch + 1
        yield Record(epoch + 1, {"train/loss": step(model, optimizer)})
    yield Record(5, {"test/loss": 0.0})


def _advanced_first(run: Run) -> Generator[Record]:
    model, optimizer = line()
    progress = run.restore(model, optimizer)
    for epoch in range(progress.epoch, 4):
        progress.epoch = epoch + 1
        yield Record(epoch, {"train/loss": step(model, optimizer)})


def _all_kept(run: Run) -> Generator[Record]:
    model, optimizer = line()
    average = torch.optim.swa_utils.AveragedModel(model)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=9)
    frozen = nn.Linear(2, 1)
    order = torch.Generator()
    for epoch in run.epochs(3, model, optimizer, average=average, scheduler=scheduler, order=order):
        fresh = torch.Generator().manual_seed(epoch)
        torch.randperm(3, generator=fresh)
        torch.randperm(3, generator=order)
        loss = step(model, optimizer, frozen.weight.detach())
        scheduler.step()
        average.update_parameters(model)
        yield Record(epoch, {"train/loss": loss})


class Both:
    """Two optimizers as one thing with a state."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self._optimizers = optimizers

    def state_dict(self) -> dict[str, Any]:
        return {str(number): optimizer.state_dict() for number, optimizer in enumerate(self._optimizers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict(state[str(number)])


def _inside_a_thing_of_its_own(run: Run) -> Generator[Record]:
    (first, first_optimizer), (second, second_optimizer) = line(), line()
    for epoch in run.epochs(3, [first, second], Both(first_optimizer, second_optimizer)):
        step(second, second_optimizer)
        yield Record(epoch, {"train/loss": step(first, first_optimizer)})


class Broken:
    """Looks like something with a state, and has none."""

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("not now")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise RuntimeError("never")


def _beside_something_broken(run: Run) -> Generator[Record]:
    model, optimizer = line()
    broken = Broken()
    for epoch in run.epochs(3, model, optimizer):
        yield Record(epoch, {"train/loss": step(model, optimizer), "train/broken": float(broken is not None)})


def _measurements(run: Run) -> Generator[Record]:
    yield from (Record(number, {"time/s": 1.0}) for number in range(3))


@pytest.mark.parametrize(
    "function",
    [
        _fine_loop_of_its_own,
        _advanced_first,
        _all_kept,
        _inside_a_thing_of_its_own,
        _beside_something_broken,
        _measurements,
    ],
    ids=lambda function: function.__name__.strip("_"),
)
def test_what_is_right_is_not_complained_of(function: Any, tmp_path: Path) -> None:
    assert complaints(function, tmp_path) == []

"""A run that is killed inside an epoch goes on with the next batch, to the bit."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset, IterableDataset

from labtrail.config import Checkpointing, Config, load_config
from labtrail.errors import ConfigError, LabtrailError
from labtrail.record import Record
from labtrail.running.batches import ShuffledSampler
from labtrail.running.cadence import Cadence
from labtrail.running.run import Run
from tests.unit.running.loops import drive, line, step

EVERY_STEP = Checkpointing(every="1")


class Noisy(Dataset[torch.Tensor]):
    """Twelve samples, each with noise drawn when it is loaded."""

    def __init__(self, draw: Callable[[], torch.Tensor] = lambda: torch.randn(2)) -> None:
        self.loaded = 0
        self._draw = draw

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        self.loaded += 1
        return torch.tensor([index / 12, 1.0]) + 0.1 * self._draw()


class Stream(IterableDataset[torch.Tensor]):
    """Samples that come one after the other, with noise."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (torch.tensor([place / 7, 0.5]) + 0.1 * torch.randn(2) for place in range(7))


class Resumable:
    """A stream that knows its own place."""

    def __init__(self) -> None:
        self.place = 0

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]

    def __iter__(self) -> Iterator[torch.Tensor]:
        while self.place < 5:
            self.place += 1
            yield torch.full((1, 2), self.place / 5)
        self.place = 0


@dataclass
class Sums:
    """What is summed up over an epoch."""

    loss: float = 0.0


def looped(make: Callable[[], tuple[Iterable[torch.Tensor], dict[str, Any]]]) -> Callable[[Run], Generator[Record]]:
    """Two epochs over the batches of a loader, with noise in the training, too."""

    def function(run: Run) -> Generator[Record]:
        model, optimizer = line()
        batches, state = make()
        sums = Sums()
        for epoch in run.epochs(2, model, optimizer, sums=sums, **state):
            sums.loss = 0.0
            for batch in run.steps(batches):
                sums.loss += step(model, optimizer, batch + 0.01 * torch.randn_like(batch))
            yield Record(epoch, {"train/loss": sums.loss})

    return function


def _numpy_noise() -> tuple[Iterable[torch.Tensor], dict[str, Any]]:
    draw = np.random.default_rng(3)
    return DataLoader(Noisy(lambda: torch.from_numpy(draw.normal(size=2)).float()), 4), {"draw": draw}


def _ordered_by_a_generator() -> tuple[Iterable[torch.Tensor], dict[str, Any]]:
    order = torch.Generator().manual_seed(5)
    return DataLoader(Noisy(), 4, shuffle=True, generator=order), {"order": order}


def _prepared() -> tuple[Iterable[torch.Tensor], dict[str, Any]]:
    return Accelerator(cpu=True).prepare(DataLoader(Noisy(), 4, shuffle=True)), {}


def _resumable() -> tuple[Iterable[torch.Tensor], dict[str, Any]]:
    stream = Resumable()
    return stream, {"stream": stream}


LOADERS = {
    "shuffled": lambda: (DataLoader(Noisy(), 4, shuffle=True), {}),
    "by workers": lambda: (DataLoader(Noisy(), 4, shuffle=True, num_workers=1), {}),
    "by a generator of its own": _ordered_by_a_generator,
    "noise of NumPy": _numpy_noise,
    "prepared by accelerate": _prepared,
    "ShuffledSampler": lambda: (DataLoader(data := Noisy(), 4, sampler=ShuffledSampler(data, seed=3)), {}),
    "ShuffledSampler and workers": lambda: (
        DataLoader(data := Noisy(), 4, sampler=ShuffledSampler(data, seed=3), num_workers=1),
        {},
    ),
    "ShuffledSampler, prepared": lambda: (
        Accelerator(cpu=True).prepare(DataLoader(data := Noisy(), 4, sampler=ShuffledSampler(data, seed=3))),
        {},
    ),
    "a stream": lambda: (DataLoader(Stream(), 2), {}),
    "a stream with a state": _resumable,
    "a list": lambda: ([torch.full((1, 2), number / 4) for number in range(4)], {}),
}


@pytest.mark.parametrize("loader", LOADERS)
def test_killed_after_each_step_and_continued(loader: str, tmp_path: Path) -> None:
    function = looped(LOADERS[loader])
    torch.manual_seed(1)
    (first, second) = drive(function, tmp_path / "whole", settings=EVERY_STEP)
    saves = 0
    taken: list[Record] = []
    while len(taken) < 2:
        saves += 1
        # Whatever the generators of the new process hold, they get their states back.
        torch.manual_seed(1 if saves == 1 else 99)
        taken += drive(function, tmp_path / "cut", saves=1, settings=EVERY_STEP)
    assert taken == [first, second]
    assert saves > 6
    assert first.metrics != second.metrics


def test_the_order_does_not_depend_on_the_training(tmp_path: Path) -> None:
    orders: list[list[float]] = []

    def function(run: Run, draws: int) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(1, model, optimizer):
            orders.append([])
            for batch in run.steps(DataLoader(Noisy(), 4, shuffle=True)):
                orders[-1] += batch.flatten().tolist()
                torch.randn(draws)
            yield Record(epoch, {})

    for draws in (1, 7):
        torch.manual_seed(2)
        drive(lambda run, draws=draws: function(run, draws), tmp_path / str(draws))
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 24


def test_a_sampler_with_a_place_loads_nothing_twice(tmp_path: Path) -> None:
    data = Noisy()
    function = looped(lambda: (DataLoader(data, 4, sampler=ShuffledSampler(data, seed=3)), {}))
    drive(function, tmp_path, saves=2, settings=EVERY_STEP)
    assert data.loaded == 8
    data.loaded = 0
    drive(function, tmp_path, saves=1, settings=EVERY_STEP)
    assert data.loaded == 4


def test_what_is_passed_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    function = looped(LOADERS["shuffled"])
    drive(function, tmp_path, saves=2, settings=EVERY_STEP)
    with caplog.at_level(logging.INFO, logger="labtrail"):
        drive(function, tmp_path, settings=EVERY_STEP)
    assert "epoch 0: passing over the 2 batches that are done" in caplog.text


def test_shuffled_sampler_covers_each_epoch_in_another_order() -> None:
    sampler = ShuffledSampler(range(10), seed=4)
    orders = []
    for epoch in (0, 1, 0):
        sampler.begin(epoch)
        orders.append(list(sampler))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] == orders[2] != orders[1]
    sampler.begin(1, 7)
    assert list(sampler) == orders[1][7:]
    assert len(sampler) == 3


def records_within(run: Run) -> Generator[Record]:
    """A Record every second step, as for a model that sees its data once."""
    model, optimizer = line()
    for _ in run.epochs(1, model, optimizer):
        for number, batch in enumerate(run.steps(DataLoader(Noisy(), 2, shuffle=True)), start=run.step):
            loss = step(model, optimizer, batch)
            if number % 2:
                yield Record(number, {"train/loss": loss})


@pytest.mark.parametrize("every", ["1", "3", None])
def test_records_at_any_step(every: str | None, tmp_path: Path) -> None:
    settings = Checkpointing(every=every)
    torch.manual_seed(1)
    whole = drive(records_within, tmp_path / "whole", settings=settings)
    assert [record.step for record in whole] == [1, 3, 5]
    torch.manual_seed(1)
    drive(records_within, tmp_path / "cut", records=2, settings=settings)
    again = drive(records_within, tmp_path / "cut", settings=settings)
    assert again == whole[-len(again) :]
    assert len(again) < 3


def test_the_best_within_an_epoch_is_kept(tmp_path: Path) -> None:
    weights = []

    def function(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for _ in run.epochs(1, model, optimizer):
            for number, _batch in enumerate(run.steps(range(4)), start=run.step):
                step(model, optimizer)
                weights.append(model.weight.detach().clone())
                yield Record(number, {"train/loss": [3.0, 1.0, 2.0, 4.0][number]})
        run.load_best(model)
        yield Record(4, {"test/is_best": float(torch.equal(model.weight, weights[1]))})

    assert drive(function, tmp_path)[-1].metrics == {"test/is_best": 1.0}


def test_steps_belong_into_one_loop_of_epochs(tmp_path: Path) -> None:
    def outside(run: Run) -> Generator[Record]:
        run.restore(*line())
        for _ in run.steps([1]):
            yield Record(0, {})

    def twice(run: Run) -> Generator[Record]:
        for epoch in run.epochs(1, *line()):
            for _ in run.steps([1]):
                pass
            for _ in run.steps([1]):
                pass
            yield Record(epoch, {})

    with pytest.raises(LabtrailError, match=r"run\.steps: call it in the loop of run\.epochs"):
        drive(outside, tmp_path / "outside")
    with pytest.raises(LabtrailError, match=r"run\.steps: a second time in epoch 0"):
        drive(twice, tmp_path / "twice")


@pytest.mark.parametrize(
    ("every", "steps", "seconds"),
    [(None, None, None), ("500", 500, None), ("1 step", 1, None), ("30s", None, 30.0), ("10 min", None, 600.0)],
)
def test_cadence(every: str | None, steps: int | None, seconds: float | None) -> None:
    cadence = Cadence.read(every)
    assert (cadence.steps, cadence.seconds) == (steps, seconds)


@pytest.mark.parametrize("every", ["0", "ten", "5 hours", "-1", "1.5"])
def test_other_cadences_are_refused(every: str) -> None:
    with pytest.raises(ConfigError, match=r"--checkpoint\.every"):
        load_config(Config, None, [("checkpoint.every", every)])

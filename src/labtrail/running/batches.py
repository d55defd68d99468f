"""The batches of an epoch, in an order that a run which is resumed in the midst of it draws again.

Why: docs/decisions/055-a-place-within-an-epoch.md
"""

import logging
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import Sampler

from labtrail.running.seeding import reseed

_log = logging.getLogger("labtrail")

Batch = TypeVar("Batch")
Element = TypeVar("Element")


class _Drawing(Generic[Element]):
    """An iterator that draws from a stream of random numbers of its own.

    What a loader draws for its order and its augmentations then does not depend on what the training draws between two
    batches: the same batches come again where they are only passed over.
    """

    def __init__(self, elements: Iterable[Element], seed: int) -> None:
        outside = _states()
        reseed(seed)
        self._inside = _states()
        _set_states(outside)
        self._iterator = self._drawing(lambda: iter(elements))

    def __iter__(self) -> Iterator[Element]:
        return self

    def __next__(self) -> Element:
        return self._drawing(lambda: next(self._iterator))

    def _drawing(self, call: Callable[[], Any]) -> Any:
        outside = _states()
        _set_states(self._inside)
        try:
            return call()
        finally:
            self._inside = _states()
            _set_states(outside)


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 loaders draw from it


def _set_states(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002 loaders draw from it
    random.setstate(states[2])


def batches_from(batches: Iterable[Batch], seed: int, done: int, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch after those that are done.

    A ``ShuffledSampler`` begins behind them; of other loaders, the batches are loaded and passed over.

    Args:
        batches: a loader, or anything that can be iterated over.
        seed: of the numbers that it draws.
        done: how many batches of the epoch are done.
        epoch: its number.
    """
    sampler = _shuffled_sampler(batches)
    if sampler is not None:
        sampler.begin(epoch, done * _batch_size(batches))
        return _Drawing(batches, seed)
    drawing = _Drawing(batches, seed)
    if done:
        _log.info("epoch %d: passing over the %d batches that are done", epoch, done)
    for passed in range(done):
        if next(drawing, None) is None:
            _log.warning("epoch %d: the data end after %d batches, of which %d were done", epoch, passed, done)
            break
    return drawing


class ShuffledSampler(Sampler[int]):
    """Indices of a data set in an order that follows from seed and epoch, from any place in it.

    With it in a ``DataLoader``, ``run.steps`` goes on in the midst of an epoch without loading what it has passed.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        """
        Args:
            data: the data set; its length counts.
            seed: of the order, together with the number of the epoch.
        """
        self._data, self._seed = data, seed
        self._epoch, self._passed = 0, 0

    def begin(self, epoch: int, passed: int = 0) -> None:
        """Chooses the epoch whose order comes next, and how many of its indices are left out."""
        self._epoch, self._passed = epoch, passed

    def __len__(self) -> int:
        return len(self._data) - self._passed

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(len(self._data))
        yield from order[self._passed :].tolist()


def _shuffled_sampler(batches: Any) -> ShuffledSampler | None:
    """The sampler of a loader, also of one that ``accelerator.prepare`` has wrapped for one process."""
    sampler = getattr(batches, "sampler", None)
    return sampler if isinstance(sampler, ShuffledSampler) else None


def _batch_size(batches: Any) -> int:
    return int(batches.batch_size or 1)


def counted(batches: Iterable[Batch], count: Callable[[], None]) -> Generator[Batch]:
    """The batches, each counted when the next one is asked for, once its work is done."""
    for batch in batches:
        yield batch
        count()

"""The batches of an epoch, in an order that a run which is resumed in the midst of it draws again.

Why: docs/decisions/055-a-place-within-an-epoch.md
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Generic, TypeGuard, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from labtrail.running.seeding import generator_states, reseed, set_generator_states

_log = logging.getLogger("labtrail")

Batch = TypeVar("Batch")
Element = TypeVar("Element")


class Drawing(Generic[Element]):
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

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands."""
        return self._drawing(lambda: {**generator_states(), "cuda": []})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the stream there."""
        self._drawing(lambda: set_generator_states(state))

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


def batches_from(batches: Iterable[Batch], begun: Mapping[str, Any], done: int, epoch: int) -> Drawing[Batch]:
    """The batches of an epoch after those that are done.

    A loader with a ``ShuffledSampler`` begins behind them. Of others, and where worker processes load, whose random
    numbers cannot be put back, the batches are loaded and passed over.

    Args:
        batches: a loader, or anything that can be iterated over.
        begun: ``seed`` of the numbers that it draws, and ``stream``, where these stood behind what is done.
        done: how many batches of the epoch are done.
        epoch: its number.
    """
    for sampler in _shuffled_samplers(batches):
        sampler.begin(epoch, done * (batches.batch_size or 1) if _can_skip(batches) else 0)
    if done and _can_skip(batches):
        drawing = Drawing(batches, begun["seed"])
        drawing.load_state_dict(begun["stream"])
        return drawing
    drawing = Drawing(batches, begun["seed"])
    if done:
        _log.info("epoch %d: passing over the %d batches that are done", epoch, done)
    for passed in range(done):
        if next(drawing, None) is None:
            _log.warning("epoch %d: the data end after %d batches, of which %d were done", epoch, passed, done)
            break
    return drawing


def _shuffled_samplers(loader: Any) -> Iterator["ShuffledSampler"]:
    """The sampler of a loader, also where accelerate has put its share of the batches for each process around it."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    for owner in (loader, batch_sampler, getattr(batch_sampler, "batch_sampler", None)):
        if isinstance(sampler := getattr(owner, "sampler", None), ShuffledSampler):
            yield sampler


def _can_skip(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether it can begin at any batch, with the numbers that it would have drawn there.

    Worker processes draw numbers of their own, and loaders of accelerate are a batch ahead.
    """
    plain = type(loader) is DataLoader and loader.num_workers == 0 and loader.batch_size is not None
    return plain and isinstance(loader.sampler, ShuffledSampler)


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

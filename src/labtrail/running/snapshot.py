"""Copies of nested state in memory, and work that goes on behind the training.

Why: docs/decisions/004-daemon-thread-writes.md
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labtrail.errors import CheckpointError

# What a file of tensors and plain values may hold; it is read without unpickling anything else.
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_ARRAY, _NUMBER = "labtrail.numpy_array", "labtrail.numpy_number"


class _UnkeptError(Exception):
    """A value of a type that no file of plain values holds, with the way to it."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.way: list[str] = []


def copied(value: Any, buffer: Any, name: str = "state") -> Any:
    """A copy of nested state on the CPU as tensors and plain values, which ``revived`` turns back.

    Args:
        value: tensors, NumPy arrays and plain values in dicts, lists and tuples.
        buffer: the copy before; tensors go into its tensors where those fit. None: there is none.
        name: what the value is called in messages.

    Raises:
        CheckpointError: a value of another type is in it; names where.
    """
    try:
        return _copied(value, buffer)
    except _UnkeptError as error:
        place = ".".join([name, *reversed(error.way)])
        raise CheckpointError(
            f"{place}: a value of type {error} cannot be kept in a checkpoint; keep tensors, arrays, numbers, texts, "
            "and dicts, lists and tuples of these"
        ) from None


def _copied(value: Any, buffer: Any) -> Any:
    if isinstance(value, Tensor):
        return _copied_tensor(value.detach(), buffer)
    if isinstance(value, dict):
        known = buffer if isinstance(buffer, dict) else {}
        return dict(_inner((_plain_key(key), inner, known.get(key)) for key, inner in value.items()))
    if isinstance(value, list | tuple):
        known = buffer if isinstance(buffer, list | tuple) and len(buffer) == len(value) else [None] * len(value)
        copies = [copy for _, copy in _inner(zip(range(len(value)), value, known, strict=True))]
        return copies if isinstance(value, list) else tuple(copies)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        return _ARRAY if isinstance(value, np.ndarray) else _NUMBER, torch.from_numpy(array.copy())
    if type(value) in _PLAIN:
        return value
    raise _UnkeptError(type(value))


def _copied_tensor(value: Tensor, buffer: Any) -> Tensor:
    if value.layout != torch.strided:
        return value.cpu() if value.device.type != "cpu" else value.clone()
    if isinstance(buffer, Tensor) and buffer.shape == value.shape and buffer.dtype == value.dtype:
        return buffer.copy_(value)
    # Files hold tensors in their plain layout, whatever the layout in memory.
    return value.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _inner(parts: Any) -> Iterator[tuple[Any, Any]]:
    """Copies of the parts of a container, by their keys; on the way out, an error learns the way to its value."""
    for key, value, buffer in parts:
        try:
            yield key, _copied(value, buffer)
        except _UnkeptError as error:
            error.way.append(str(key))
            raise


def _plain_key(key: Any) -> Any:
    if type(key) in _PLAIN or (type(key) is tuple and all(type(part) in _PLAIN for part in key)):
        return key
    raise _UnkeptError(type(key))


def revived(value: Any) -> Any:
    """The state that ``copied`` has made a copy of: its NumPy arrays and numbers are such again."""
    if isinstance(value, dict):
        return {key: revived(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and value[0] in (_ARRAY, _NUMBER):
        return value[1].numpy() if value[0] == _ARRAY else value[1].numpy()[()]
    if isinstance(value, list | tuple):
        return type(value)([revived(inner) for inner in value])
    return value


def bytes_of(value: Any) -> int:
    """How much memory the tensors in nested state take."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() if value.layout == torch.strided else 0
    if isinstance(value, dict):
        return sum(map(bytes_of, value.values()))
    return sum(map(bytes_of, value)) if isinstance(value, list | tuple) else 0


class Background:
    """One call in a thread of its own.

    A daemon thread and not an executor: a signal's exception inside an executor's first submit leaves a
    thread that the interpreter waits for at exit, for ever.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="labtrail-checkpoint", daemon=True)

    def start(self) -> None:
        """Begins the call."""
        self._thread.start()

    def wait(self) -> None:
        """Waits for the end of the call and raises what it raised."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._error = error

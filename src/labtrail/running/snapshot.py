"""Copies of nested state in memory, and work that goes on behind the training.

Why: docs/decisions/004-daemon-thread-writes.md
"""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def copied(value: Any, buffer: Any) -> Any:
    """A copy of nested state on the CPU; tensors go into the buffers of the copy before, where those fit."""
    if isinstance(value, Tensor):
        if isinstance(buffer, Tensor) and buffer.shape == value.shape and buffer.dtype == value.dtype:
            return buffer.copy_(value.detach())
        # Files hold tensors in their plain layout, whatever the layout in memory.
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        known = buffer if isinstance(buffer, dict) else {}
        return {key: copied(inner, known.get(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        known = buffer if isinstance(buffer, list | tuple) and len(buffer) == len(value) else [None] * len(value)
        return type(value)(copied(inner, inner_buffer) for inner, inner_buffer in zip(value, known, strict=True))
    return value


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

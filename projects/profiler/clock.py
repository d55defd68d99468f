"""What time it is on a device, cheaply, while a step runs."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from labtrail.stepgraph.program import Watcher


class Clock(Protocol):
    """Moments are taken while the step runs, and read after it."""

    def now(self) -> Any:
        """A moment."""
        ...

    def seconds(self, moments: Sequence[Any]) -> np.ndarray:
        """The moments in seconds after the first, float64; waits for the device."""
        ...


class CpuClock:
    """The CPU's monotonic clock."""

    now: Callable[[], int] = staticmethod(time.perf_counter_ns)

    def seconds(self, moments: Sequence[int]) -> np.ndarray:
        """Nanoseconds to seconds."""
        return (np.array(moments, np.int64) - moments[0]) / 1e9


class CudaClock:
    """Events in the device's stream: the CPU does not wait for the device."""

    def now(self) -> torch.cuda.Event:
        """An event that the device passes when it has done all work before."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, moments: Sequence[torch.cuda.Event]) -> np.ndarray:
        """Milliseconds between events to seconds."""
        torch.cuda.synchronize()
        return np.array([moments[0].elapsed_time(moment) / 1e3 for moment in moments])


def clock_of(device: torch.device) -> Clock:
    """The clock that tells when a device has done its work."""
    return CudaClock() if device.type == "cuda" else CpuClock()


class Stopwatch:
    """Times every node: from the end of the one before to its own, its dropped values included.

    The times add up to that of the whole step.

    Attributes:
        watcher: what a program calls.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._moments: list[Any] = []
        add, now = self._moments.append, clock.now

        def begun() -> None:
            add(now())

        def finished(_index: int, _values: list[Any]) -> None:
            add(now())

        self.watcher = Watcher(begun, finished=finished)

    def times(self) -> np.ndarray:
        """Seconds of each computed node, float64."""
        return np.diff(self._clock.seconds(self._moments))

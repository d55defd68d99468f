"""Times of two ways to do the same, taken in turn so that a machine's drift meets both."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from labtrail.running.launch import keep_freed_memory


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        name: what is done.
        ours, reference: seconds.
        ratio: how many times faster ours is.
        wanted: the least ratio that the project promises.
    """

    name: str
    ours: float
    reference: float
    ratio: float
    wanted: float

    HEADER: ClassVar[str] = f"{'what':58} {'ours':>10} {'reference':>10} {'ratio':>9} {'wanted':>8}"

    def __str__(self) -> str:
        verdict = "" if self.ratio >= self.wanted else "  MISSED"
        times = f"{_seconds(self.ours):>10} {_seconds(self.reference):>10}"
        return f"{self.name:58} {times} {self.ratio:8.2f}x {self.wanted:7.2f}x{verdict}"


def _seconds(value: float) -> str:
    if value < 1e-4:
        return f"{value * 1e6:.2f} us"
    return f"{value:.3f} s" if value >= 1 else f"{value * 1e3:.2f} ms"


def compare(
    name: str,
    ours: Callable[[], object],
    reference: Callable[[], object],
    wanted: float,
    *,
    repeats: int = 7,
    reference_repeats: int | None = None,
    ours_per_reference: float = 1.0,
) -> Row:
    """Both ways in turn; medians, and the median of the paired ratios.

    Before each measurement the same call runs once outside the clock: changing how glibc treats freed memory
    costs a process once what would otherwise be counted every time. A slow reference is warmed by nothing.

    Args:
        name: of the row.
        ours, reference: the two ways.
        wanted: the promised ratio.
        repeats: how often ours is timed.
        reference_repeats: how often the reference is timed, if it is slow; its median then pairs with all.
        ours_per_reference: how many times the reference's work one call of ours does.
    """
    own: list[float] = []
    other: list[float] = []
    for index in range(repeats):
        # The platform keeps freed memory in each process it starts; a plain process has glibc's defaults.
        keep_freed_memory(False)
        if reference_repeats is None:
            reference()
        if reference_repeats is None or index < reference_repeats:
            other.append(cpu_seconds(reference))
        keep_freed_memory(True)
        ours()
        own.append(cpu_seconds(ours) / ours_per_reference)
    padded = other + [statistics.median(other)] * (repeats - len(other))
    ratio = statistics.median(slow / fast for slow, fast in zip(padded, own, strict=True))
    return Row(name, statistics.median(own), statistics.median(other), ratio, wanted)


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    began = time.process_time()
    call()
    return max(time.process_time() - began, 1e-9)

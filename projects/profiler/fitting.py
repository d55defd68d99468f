"""Whether a step fits into the memory there is: known before any of it is used."""

import math
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

import labtrail as lt
from labtrail.stepgraph.liveness import Activation, activations, held_with_swapping, liveness
from labtrail.stepgraph.trace import TracedStep
from projects.profiler.swap import swappable
from projects.profiler.tables import size

_GROUP = Path("/sys/fs/cgroup")


class MemoryLimitError(lt.LabtrailError):
    """A step that needs more memory than there is."""


def free_bytes(device: torch.device) -> float:
    """What can still be allocated: on the GPU, cached blocks included, or on this machine within its control group."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min(psutil.virtual_memory().available, _left_in_group())


def _left_in_group() -> float:
    """What the process's control group (a container, a batch job) still grants; infinity where it sets no limit."""
    try:
        most, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return math.inf
    return math.inf if most == "max" else int(most) - int(used)


def to_swap(traced: TracedStep, what: str, limit_bytes: float | None, free: float) -> list[Activation]:
    """The activations to swap while the step is profiled: none if it fits, all that can be if it does not.

    Args:
        traced: the step.
        what: its name in messages.
        limit_bytes: the memory of the device that it is profiled for; None: none.
        free: bytes that there are.

    Raises:
        MemoryLimitError: it does not even fit then; says what it takes.
    """
    life = liveness(traced.graph)
    if limit_bytes is None or life.peak <= limit_bytes:
        if life.peak > free:
            raise MemoryLimitError(
                f"{what}: out of memory: a step needs {size(life.peak)}, {size(free)} are free; lower batch_sizes, or "
                "set memory_limit_gib to profile it by swapping"
            )
        return []
    swapped = swappable(traced.graph, activations(traced.graph))
    least = int(held_with_swapping(life, swapped)[life.first_call :].max())
    if least > min(limit_bytes, free):
        raise MemoryLimitError(
            f"{what}: out of memory: a step needs {size(life.peak)}, and {size(least)} with all waiting activations "
            f"swapped; memory_limit_gib is {size(limit_bytes)} and {size(free)} are free; lower batch_sizes"
        )
    return swapped


@contextmanager
def out_of_memory_explained(what: str) -> Generator[None]:
    """
    Raises:
        MemoryLimitError: the allocator could not give what was asked for.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(_message(what, error)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryLimitError(_message(what, error)) from error


def _message(what: str, error: Exception) -> str:
    return f"{what}: out of memory ({str(error).splitlines()[0]}); lower batch_sizes, or set memory_limit_gib"

"""The batch schedulers: another one is a module like ``slurm.py``, a line here, and one in pyproject.toml."""

from collections.abc import Mapping
from typing import Protocol

from labtrail.jobs.pbs import Pbs
from labtrail.jobs.queue import Queue
from labtrail.jobs.slurm import Slurm

LOCAL = "local"


class _Scheduler(Protocol):
    def __call__(self, timeout_s: float) -> Queue: ...


SCHEDULERS: Mapping[str, _Scheduler] = {"slurm": Slurm, "pbs": Pbs}
NAMES = tuple(SCHEDULERS)


def queue_named(name: str, timeout_s: float) -> Queue:
    """The queue of a scheduler.

    Args:
        name: of the scheduler, one of ``NAMES``.
        timeout_s: silence of its commands after which nothing is known.
    """
    return SCHEDULERS[name](timeout_s)

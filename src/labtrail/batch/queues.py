"""The schedulers that are known, by name."""

from labtrail.batch.pbs import Pbs
from labtrail.batch.queue import Queue
from labtrail.batch.slurm import Slurm


def queue_named(name: str, timeout_s: float) -> Queue:
    """``slurm`` or ``pbs``.

    Args:
        name: of the scheduler.
        timeout_s: silence of its commands after which nothing is known.
    """
    return {"slurm": Slurm, "pbs": Pbs}[name](timeout_s)

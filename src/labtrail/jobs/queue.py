"""What a campaign needs of a batch scheduler: to submit, to see what is alive, to cancel.

A job's identity is its name, never its number: a controller that loses its last seconds gives numbers out again.
"""

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from labtrail.errors import LabtrailError


class QueueError(LabtrailError):
    """The scheduler does not answer, or not sensibly. Nothing is known, so nothing may be done."""


class SubmitError(LabtrailError):
    """The scheduler refuses a job."""


class Queued(NamedTuple):
    """A job that waits or runs.

    Attributes:
        job_id: number that the scheduler gave it.
        state: the scheduler's own word.
        running: whether it has begun.
        stuck: why it will not begin by itself; empty for any other.
    """

    job_id: str
    state: str
    running: bool
    stuck: str = ""


class Answer(NamedTuple):
    """What a command said."""

    status: int
    output: str
    problem: str


class Queue(Protocol):
    """A batch scheduler.

    Attributes:
        name: of the scheduler, as tags have it.
        longest_name: characters that a job's name may have.
    """

    name: str
    longest_name: int

    def alive(self, names: Collection[str]) -> dict[str, Queued]:
        """Which jobs of these names wait or run; a name that is absent has no such job.

        Raises:
            QueueError: it is not known.
        """
        ...

    def submit(self, script: Path, name: str, log: Path) -> str:
        """Puts a script into the queue; its number.

        Raises:
            SubmitError: it was refused.
            QueueError: it is not known whether it was accepted.
        """
        ...

    def check(self, script: Path) -> None:
        """Asks whether a script would be accepted, without submitting it.

        Raises:
            SubmitError: it would be refused.
            QueueError: the scheduler does not answer.
        """
        ...

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Ends jobs, or takes them out of the queue.

        Raises:
            QueueError: the scheduler does not answer.
        """
        ...

    def directives(self, resources: Mapping[str, str]) -> list[str]:
        """Lines of a script that ask for resources."""
        ...


def ask(words: Sequence[str], timeout_s: float) -> Answer:
    """Runs a command of the scheduler; no shell reads its words.

    Raises:
        QueueError: it is not installed, or did not answer in time.
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, env=_plain()
        )
    except FileNotFoundError:
        raise QueueError(f"{words[0]} is not on PATH; run this on a machine of the cluster") from None
    except subprocess.TimeoutExpired:
        raise QueueError(f"{words[0]} did not answer within {timeout_s:g} s; nothing is known") from None
    return Answer(done.returncode, done.stdout, " ".join(done.stderr.split()))


def _plain() -> dict[str, str]:
    """The environment without a user's own defaults of these commands: they would change what is seen and submitted."""
    defaults = ("SQUEUE_", "SBATCH_", "SLURM_CLUSTERS", "SCANCEL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(defaults)}

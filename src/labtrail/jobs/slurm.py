"""Slurm: sbatch, squeue and scancel, called with lists of words.

Only ``squeue`` is asked what is alive, by name. ``sacct`` needs a database that many sites lack, and a number tells
nothing once its job has aged out of the controller.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from labtrail.jobs.queue import Answer, Queued, QueueError, SubmitError, ask

_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
# States in which it has begun.
_RUNNING = {"RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING"}
# Beginnings of reasons for which a job waits until somebody does something about it.
_STUCK = (
    "DependencyNeverSatisfied",
    "JobHeldUser",
    "JobHeldAdmin",
    "BadConstraints",
    "PartitionTimeLimit",
    "PartitionNodeLimit",
    "PartitionDown",
    "PartitionInactive",
    "InvalidAccount",
    "InvalidQOS",
    "AccountNotAllowed",
    "QOSNotAllowed",
    "AssocMaxWallDurationPerJobLimit",
    "QOSMaxWallDurationPerJobLimit",
    "ReservationDeleted",
    "launch failed requeued held",
)
_HELD = {"REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
# Errors of sbatch after which the job may have been accepted all the same.
_UNKNOWN = ("contact slurm controller", "timed out", "zero bytes", "connection", "communication", "try again")
# What a test answers while all nodes are down; the same job would be queued.
_NOW = "Requested node configuration is not available"


class Slurm:
    """A cluster whose commands are on PATH.

    Attributes:
        name, longest_name: as of any queue.
    """

    name = "slurm"
    longest_name = 200

    def __init__(self, timeout_s: float = 30.0) -> None:
        """
        Args:
            timeout_s: silence of a command after which nothing is known.
        """
        self._timeout_s = timeout_s

    def alive(self, names: Collection[str]) -> dict[str, Queued]:
        """Jobs of these names that wait or run, by one call whatever their number."""
        words = ["squeue", "--me", "--noheader", "--states=all", "--format=%j|%i|%T|%r"]
        answer = ask(words, self._timeout_s)
        if answer.status != 0:
            raise QueueError(f"squeue: {answer.problem or f'exit status {answer.status}'}")
        wanted, queued = set(names), dict[str, Queued]()
        for line in answer.output.splitlines():
            name, job_id, state, reason = line.rsplit("|", 3)
            if name in wanted and state not in _ENDED and not (name in queued and queued[name].running):
                waits = state in _HELD or (state == "PENDING" and reason.startswith(_STUCK))
                stuck = reason if waits else ""
                queued[name] = Queued(job_id, state, state in _RUNNING, stuck)
        return queued

    def submit(self, script: Path, name: str, log: Path) -> str:
        """Submits a script. A second job of its name waits for the first (singleton), and Slurm never requeues it."""
        words = ["sbatch", "--parsable", f"--job-name={name}", f"--output={_literal(log)}", "--open-mode=append"]
        words += ["--dependency=singleton", "--no-requeue", str(script)]
        return self._sbatch(words).output.strip().partition(";")[0]

    def check(self, script: Path) -> None:
        """Partition, limits and resources, as the controller sees them; nodes that are down now are no reason."""
        try:
            self._sbatch(["sbatch", "--test-only", str(script)])
        except SubmitError as error:
            if _NOW not in str(error):
                raise

    def _sbatch(self, words: Sequence[str]) -> Answer:
        answer = ask(words, self._timeout_s)
        if answer.status != 0:
            problem = answer.problem.replace("sbatch: error: ", "").replace("allocation failure: ", "")
            if any(mark in problem.lower() for mark in _UNKNOWN):
                raise QueueError(f"sbatch: {problem}")
            raise SubmitError(f"sbatch refuses {Path(words[-1]).name}: {problem}")
        return answer

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Sends them the end; running ones get SIGTERM first."""
        if job_ids:
            # A job that has ended meanwhile makes scancel complain; what is left is seen by the next look.
            answer = ask(["scancel", "--quiet", *job_ids], self._timeout_s)
            if any(mark in answer.problem.lower() for mark in _UNKNOWN):
                raise QueueError(f"scancel: {answer.problem}")

    def directives(self, resources: Mapping[str, str]) -> list[str]:
        """``#SBATCH --key=value``; a value of "" is a switch."""
        return [f"#SBATCH --{key}={value}" if value else f"#SBATCH --{key}" for key, value in resources.items()]


def _literal(log: Path) -> str:
    """A log file's name for sbatch, which reads % as the start of a pattern."""
    return str(log).replace("%", "%%")

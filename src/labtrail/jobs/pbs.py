"""PBS (OpenPBS, PBS Pro): qsub, qselect and qdel, called with lists of words.

``qselect -N`` is asked what is alive: qstat cuts names, and its exit status mixes ended with unknown jobs. PBS has no
singleton: that nothing runs twice rests on the campaign's lock and on the run's claim.
"""

import getpass
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from labtrail.jobs.queue import Answer, Queued, QueueError, SubmitError, ask

_UNKNOWN = ("cannot connect", "connection", "timed out", "timeout", "no permission to contact", "end of file")
# Exit status of qdel for a job that has ended, and for one that is not known.
_GONE = (0, 35, 153)


class Pbs:
    """A cluster whose commands are on PATH.

    Attributes:
        name, longest_name: as of any queue.
    """

    name = "pbs"
    longest_name = 230

    def __init__(self, timeout_s: float = 30.0) -> None:
        """
        Args:
            timeout_s: silence of a command after which nothing is known.
        """
        self._timeout_s = timeout_s

    def alive(self, names: Collection[str]) -> dict[str, Queued]:
        """Jobs of these names that wait or run; a call for each name, and none if the user has no job at all."""
        everything = set(self._ids())
        running, held = (set(self._ids("-s", state)) if everything else set[str]() for state in ("RE", "H"))
        queued = {}
        for name in names if everything else ():
            ids = sorted(self._ids("-N", name), key=lambda job_id: job_id not in running)
            if ids:
                began, waits = ids[0] in running, ids[0] in held
                state = "RUNNING" if began else "HELD" if waits else "QUEUED"
                queued[name] = Queued(ids[0], state, began, "it is held; qrls releases it" if waits else "")
        return queued

    def _ids(self, *options: str) -> list[str]:
        answer = ask(["qselect", "-u", getpass.getuser(), *options], self._timeout_s)
        if answer.status != 0:
            raise QueueError(f"qselect: {answer.problem or f'exit status {answer.status}'}")
        return answer.output.split()

    def submit(self, script: Path, name: str, log: Path) -> str:
        """Submits a script, which writes its log itself; PBS neither copies its output nor runs it again."""
        del log
        answer = ask(["qsub", "-N", name, "-j", "oe", "-o", "/dev/null", "-r", "n", str(script)], self._timeout_s)
        if answer.status != 0:
            raise _refusal(name, answer)
        return answer.output.strip()

    def check(self, script: Path) -> None:
        """PBS offers no such test; what it refuses, it refuses at the first submission."""

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Sends them the end; running ones get SIGTERM first."""
        if job_ids:
            answer = ask(["qdel", *job_ids], self._timeout_s)
            if answer.status not in _GONE:
                raise QueueError(f"qdel: {answer.problem or f'exit status {answer.status}'}")

    def directives(self, resources: Mapping[str, str]) -> list[str]:
        """``#PBS -l key=value``, and ``#PBS -q value`` for keys of one letter."""
        return [
            f"#PBS -{key} {value}" if len(key) == 1 else f"#PBS -l {key}={value}" for key, value in resources.items()
        ]


def _refusal(name: str, answer: Answer) -> QueueError | SubmitError:
    problem = answer.problem.removeprefix("qsub: ") or f"exit status {answer.status}"
    if any(mark in problem.lower() for mark in _UNKNOWN):
        return QueueError(f"qsub: {problem}")
    return SubmitError(f"qsub refuses {name}: {problem}")

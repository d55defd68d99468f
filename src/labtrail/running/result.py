"""Result: what a caller in Python learns of a run that has ended."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from labtrail.query.find import run_by_id
from labtrail.store import contract


@dataclass(frozen=True)
class Result:
    """How a run ended, and with which numbers.

    Attributes:
        run_id: of the run that holds the work.
        end: FINISHED, FAILED or KILLED; RUNNING where another process is at it.
        exit_status: as of the command: 0 only if the work is done.
        metrics: the last value of each metric.
        reason: why it ended otherwise than at its end.
    """

    run_id: str
    end: str
    exit_status: int
    metrics: Mapping[str, float]
    reason: str = ""

    @property
    def done(self) -> bool:
        """Whether the work is done."""
        return self.exit_status == contract.DONE


def result_of(run_id: str, exit_status: int) -> Result:
    """The result of a run as the store has it."""
    run = run_by_id(run_id)
    return Result(run_id, run.end, exit_status, dict(run.metrics), run.tags.get(contract.STATUS_REASON, ""))


def tell_progress() -> None:
    """Lets labtrail's lines appear on standard error where the program has not said what becomes of its log."""
    logger = logging.getLogger("labtrail")
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)


class AlreadyDone(SystemExit):
    """The work of ``lt.start`` has been done; a script ends with status 0, a notebook may catch it.

    Attributes:
        result: of the run that has done it.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(contract.DONE)
        self.result = result

"""A fence between two attempts at one run: the later one raises it, and the earlier one may write no more.

A node that is taken for lost may still compute, and locks do not always reach it. Each submission of a run therefore
carries a number, its token. The highest number that has begun is kept in a file of the working folder, which is looked
at before every write of a checkpoint or a metric. Between look and rename there are microseconds, which only a file
system that knows tokens could close.
"""

import os

from labtrail import contract, store
from labtrail.errors import Superseded
from labtrail.files import write_atomically


class Fence:
    """The right of this process to write a run."""

    def __init__(self, run_id: str, token: int | None = None) -> None:
        """
        Args:
            run_id: whose files it guards.
            token: of this attempt; None: the one that this job was given for this run, or that of the last attempt.
        """
        self._run_id = run_id
        self._path = store.state_folder() / "fences" / run_id
        given = os.environ.get(contract.TOKEN_VARIABLE, "") if os.environ.get("MLFLOW_RUN_ID") == run_id else ""
        self._token = token if token is not None else int(given) if given.isdigit() else self._highest()

    def _highest(self) -> int:
        try:
            return int(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    @property
    def contested(self) -> bool:
        """Whether this attempt comes after one that has begun, which may still be alive somewhere."""
        return self._token > self._highest() > 0

    def raise_(self) -> None:
        """Begins this attempt; every earlier one finds itself shut out.

        Raises:
            Superseded: a later one has begun.
        """
        self.check()
        if self._token > self._highest():
            write_atomically(self._path, str(self._token).encode())

    def check(self) -> None:
        """
        Raises:
            Superseded: a later attempt has begun.
        """
        highest = self._highest()
        if highest > self._token:
            raise Superseded(
                f"run {self._run_id}: attempt {highest} has taken it over; attempt {self._token} writes no more"
            )

"""A fence between two attempts at one run: the later one raises it, and the earlier one may write no more.

A node that is taken for lost may still compute, and locks do not always reach it. Each submission of a run therefore
carries a number, its token, and leaves a file of that name when it begins. Whether there is a higher one is looked at
before every write of a checkpoint or a metric. Between look and rename there are microseconds, which only a file
system that knows tokens could close.

Why: docs/decisions/015-fence-files.md
"""

import os

from labtrail.errors import Superseded
from labtrail.store import contract, lab


class Fence:
    """The right of this process to write a run."""

    def __init__(self, run_id: str, token: int | None = None) -> None:
        """
        Args:
            run_id: whose files it guards.
            token: of this attempt; None: the one that this job was given for this run, or that of the last attempt.
        """
        self._run_id = run_id
        self._folder = lab.state_folder() / "fences" / run_id
        token_text = os.environ.get(contract.TOKEN_VARIABLE, "") if os.environ.get("MLFLOW_RUN_ID") == run_id else ""
        self._token = token if token is not None else int(token_text) if token_text.isdigit() else self._highest()

    def _highest(self) -> int:
        if not self._folder.is_dir():
            return 0
        return max((int(path.name) for path in self._folder.iterdir() if path.name.isdigit()), default=0)

    @property
    def contested(self) -> bool:
        """Whether this attempt comes after one that has begun, which may still be alive somewhere."""
        return self._token > self._highest() > 0

    @property
    def superseded(self) -> bool:
        """Whether a later attempt has begun."""
        return self._highest() > self._token

    def activate(self) -> None:
        """Begins this attempt; every earlier one finds itself shut out. Nothing lowers the fence again.

        Raises:
            Superseded: a later one has begun.
        """
        self.check()
        if self._token > 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / str(self._token)).touch()

    def check(self) -> None:
        """
        Raises:
            Superseded: a later attempt has begun.
        """
        if self.superseded:
            raise Superseded(
                f"run {self._run_id}: attempt {self._highest()} has taken it over; attempt {self._token} writes no more"
            )

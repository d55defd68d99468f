"""How often a state is saved inside an epoch: after so many steps, or so much time."""

import re
import time

_SECONDS = {"s": 1.0, "min": 60.0}


class Cadence:
    """Decides when the next save inside an epoch is due.

    Attributes:
        steps: between two saves; None: they are not counted.
        seconds: between two saves; None: the clock does not matter.
    """

    def __init__(self, steps: int | None = None, seconds: float | None = None) -> None:
        self.steps, self.seconds = steps, seconds
        self._saved_at = time.monotonic()

    @classmethod
    def read(cls, every: str | None) -> "Cadence":
        """
        Args:
            every: as ``checkpoint.every`` of a config: ``500``, ``500 steps``, ``30 s``, ``10 min``; None: never.
        """
        if every is None:
            return cls()
        number, unit = re.findall(r"^(\d+) ?(\w*)$", every)[0]
        if unit in _SECONDS:
            return cls(seconds=int(number) * _SECONDS[unit])
        return cls(steps=int(number))

    def is_due(self, step: int) -> bool:
        """Whether a state after so many steps of its epoch is to be saved."""
        if self.seconds is not None:
            return time.monotonic() - self._saved_at >= self.seconds
        return self.steps is not None and step % self.steps == 0

    def note_save(self) -> None:
        """Begins to count the time anew."""
        self._saved_at = time.monotonic()

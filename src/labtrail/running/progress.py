"""Progress: how far a training has come, in epochs and steps."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Progress:
    """The only loop state that is neither model nor optimizer; saved with every checkpoint.

    Attributes:
        epoch: number of epochs that are done, hence the index of the next one.
        best_epoch: number of epochs done when ``best_score`` was reached; None before the first score.
        best_score: the best value of the task's score so far.
        step: number of steps that are done of the epoch at work; 0 between epochs.
        best_step: likewise when ``best_score`` was reached.
    """

    epoch: int = 0
    best_epoch: int | None = None
    best_score: float | None = None
    step: int = 0
    best_step: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Epochs that are done, and steps of the one at work."""
        return self.epoch, self.step

    def state_dict(self) -> dict[str, Any]:
        """The fields by name, for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the fields of a checkpoint over."""
        vars(self).update(state)

"""Run: what a task is given besides its config: the device, and the state that survives a kill.

Why: docs/decisions/043-epochs-count-when-taken.md
"""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from labtrail.errors import LabtrailError
from labtrail.record import Progress
from labtrail.running.checkpoint import Checkpoint


class Run:
    """One run, as its task sees it.

    Attributes:
        id: MLflow's id of the run.
        accelerator: device, precision and processes; prepares models and optimizers.
        checkpoint: the training state of the run.
    """

    def __init__(self, run_id: str, accelerator: Accelerator, checkpoint: Checkpoint) -> None:
        self.id = run_id
        self.accelerator = accelerator
        self.checkpoint = checkpoint
        self._progress = Progress()
        self._open_epoch: int | None = None

    def restore(
        self, model: nn.Module, optimizer: Optimizer, *, milestones: Sequence[int] = (), **state: Any
    ) -> Progress:
        """Continues from the newest whole checkpoint; call it once, after ``accelerator.prepare``.

        Args:
            model: as ``prepare`` returned it.
            optimizer: likewise.
            milestones: numbers of epochs after which a portable checkpoint is kept.
            state: further things to keep; none is supported yet, and what cannot be kept is refused.

        Returns:
            The progress to continue from, fresh if there is no checkpoint; a loop of one's own advances its ``epoch``
            before it yields.

        Raises:
            CheckpointError: no checkpoint that exists is usable, or it was written by another number of processes.
            LabtrailError: further state was given.
        """
        if state:
            raise LabtrailError(
                f"restore: {', '.join(state)}: only a model and an optimizer are kept; make it a part of the model "
                "(a buffer), or a function of the epoch"
            )
        self._progress = self.checkpoint.restore(model, optimizer, milestones=milestones)
        return self._progress

    def epochs(
        self, count: int, model: nn.Module, optimizer: Optimizer, *, milestones: Sequence[int] = (), **state: Any
    ) -> Generator[int]:
        """The epochs left of ``count``: ``restore``, then a loop in which an epoch counts when its Record is taken.

        A Record that is yielded in the loop leaves a state from which a killed run goes on with the next epoch. Yield
        one Record an epoch, when all of the epoch's work is done; an epoch without one counts with the next Record.

        Args:
            count: number of epochs in all.
            model, optimizer, milestones, state: as for ``restore``.
        """
        progress = self.restore(model, optimizer, milestones=milestones, **state)
        try:
            for epoch in range(progress.epoch, count):
                self._open_epoch = epoch
                yield epoch
                progress.epoch = epoch + 1
        finally:
            self._open_epoch = None

    def count_epoch(self) -> None:
        """Notes that the Record of the epoch at work has been taken; the platform calls it.

        Raises:
            LabtrailError: it is the second one of this epoch.
        """
        if self._open_epoch is None:
            return
        if self._progress.epoch > self._open_epoch:
            raise LabtrailError(
                f"epoch {self._open_epoch} yields a second Record, which a resumed run would not repeat; "
                "put all of an epoch into one Record"
            )
        self._progress.epoch = self._open_epoch + 1

    def load_best(self, model: nn.Module) -> None:
        """Puts the best weights into the model; without a best, it keeps the last ones."""
        self.checkpoint.load_best(model)

    def milestone_files(self) -> list[Path]:
        """The milestone checkpoints that exist, in the order of their epochs."""
        return self.checkpoint.milestone_files()

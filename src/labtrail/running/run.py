"""Run: what a task is given besides its config: the device, and the state that survives a kill.

Why: docs/decisions/043-epochs-count-when-taken.md
     docs/decisions/055-a-place-within-an-epoch.md
"""

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator

from labtrail.errors import LabtrailError
from labtrail.record import Record
from labtrail.running.batches import batches_from
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.progress import Progress
from labtrail.running.watch import Watch

Batch = TypeVar("Batch")


class Run:
    """One run, as its task sees it.

    Attributes:
        id: MLflow's id of the run.
        accelerator: device, precision and processes; prepares models and optimizers.
        checkpoint: the training state of the run.
        watch: notices state that would be lost.
    """

    def __init__(
        self, run_id: str, accelerator: Accelerator, checkpoint: Checkpoint, watch: Watch | None = None
    ) -> None:
        self.id = run_id
        self.accelerator = accelerator
        self.checkpoint = checkpoint
        self.watch = watch or Watch()
        self._progress = Progress()
        self._open_epoch: int | None = None
        self._open_step: int | None = None
        self._step_epoch = -1

    def restore(
        self, model: Any = None, optimizer: Any = None, *, milestones: Sequence[int] = (), **state: Any
    ) -> Progress:
        """Continues from the newest whole checkpoint; call it once, after ``accelerator.prepare``.

        What was registered with the accelerator, and schedulers that it has prepared, are kept without being given.

        Args:
            model: a module as ``prepare`` returned it, a list or dict of modules, or None.
            optimizer: as ``prepare`` returned it, a list or dict of optimizers, or None.
            milestones: numbers of epochs after which a portable checkpoint is kept.
            state: what else changes from epoch to epoch, under names that are free to choose: schedulers, averaged
                models, stateful loaders, anything with ``state_dict`` and ``load_state_dict``; generators of torch,
                NumPy and Python; tensors, arrays, and dataclasses, lists and dicts of plain values, which are changed
                in place.

        Returns:
            The progress to continue from, fresh if there is no checkpoint; a loop of one's own advances its ``epoch``
            before it yields.

        Raises:
            CheckpointError: no checkpoint that exists is usable, it was written by another number of processes or
                holds other things, something given has no state that can be kept, or this is the second call.
        """
        self._progress = self.checkpoint.restore(model, optimizer, milestones=milestones, **state)
        self.watch.restored(self.checkpoint, self._progress)
        return self._progress

    def epochs(
        self,
        count: int,
        model: Any = None,
        optimizer: Any = None,
        *,
        milestones: Sequence[int] = (),
        **state: Any,
    ) -> Generator[int]:
        """The epochs left of ``count``: ``restore``, then a loop in which an epoch counts when its Record is taken.

        A Record that is yielded in the loop leaves a state from which a killed run goes on with the next epoch. Yield
        one Record an epoch, when all of the epoch's work is done; an epoch without one counts with the next Record.
        Between two steps of ``run.steps``, any number of Records may be yielded.

        Args:
            count: number of epochs in all.
            model, optimizer, milestones, state: as for ``restore``.
        """
        progress = self.restore(model, optimizer, milestones=milestones, **state)
        try:
            for epoch in range(progress.epoch, count):
                self._open_epoch = epoch
                yield epoch
                progress.epoch, progress.step = epoch + 1, 0
        finally:
            self._open_epoch = None

    def steps(self, batches: Iterable[Batch]) -> Generator[Batch]:
        """The batches left of an epoch of ``run.epochs``; the state is saved between them as ``checkpoint.every`` says.

        A run that is killed in the midst of an epoch goes on with the next batch: the same order is drawn again,
        what is done is passed over, and everything that ``epochs`` was given has the values that it had there. What is
        summed up over an epoch is therefore given to ``epochs``, as a dataclass for instance.

        A step counts when the next batch is asked for, or when a Record is taken. The loader draws from random numbers
        of its own, so that its order does not depend on what is drawn in the training.

        Args:
            batches: a loader; with a ``ShuffledSampler`` the batches that are done are not loaded again.

        Raises:
            LabtrailError: outside ``run.epochs``, or for the second time in an epoch.
        """
        epoch, progress = self._open_epoch, self._progress
        if epoch is None:
            raise LabtrailError("run.steps: call it in the loop of run.epochs, which knows what the epoch is")
        if self._step_epoch == epoch:
            raise LabtrailError(
                f"run.steps: a second time in epoch {epoch}; a place within an epoch is the place in one loader"
            )
        self._step_epoch, done = epoch, progress.step
        begun, knows_its_place = self.checkpoint.begin_steps(), self.checkpoint.keeps(batches)
        if done and knows_its_place:
            self.checkpoint.reload()
        remaining = batches_from(batches, begun, 0 if knows_its_place else done, epoch)
        self.checkpoint.stream = remaining
        if done and not knows_its_place:
            # Whatever the task has set for a new epoch, this one is in its midst.
            self.checkpoint.reload()
        try:
            for number, batch in enumerate(remaining, start=done):
                self._open_step = number
                yield batch
                self._count_step()
                self.checkpoint.save_within(Record(epoch))
        finally:
            self._open_step = None

    @property
    def step(self) -> int:
        """How many steps of the epoch at work are done; inside ``steps``, the number of the batch at hand."""
        return self._progress.step

    def _count_step(self) -> None:
        assert self._open_step is not None
        self._progress.step = self._open_step + 1

    def record_taken(self) -> None:
        """Counts the epoch or step whose Record has been taken; the platform calls it.

        Raises:
            LabtrailError: it is the second Record of this epoch, or the state that it leaves could not be continued.
        """
        if self._open_step is not None:
            self._count_step()
        elif self._open_epoch is not None:
            if self._progress.epoch > self._open_epoch:
                raise LabtrailError(
                    f"epoch {self._open_epoch} yields a second Record, which a resumed run would not repeat; "
                    "put all of an epoch into one Record"
                )
            self._progress.epoch, self._progress.step = self._open_epoch + 1, 0
        self.watch.look(self._progress)

    def load_best(self, model: Any) -> None:
        """Puts the best weights into the model; without a best, it keeps those it has, and a warning says so.

        Args:
            model: as it was given to ``restore``.
        """
        self.checkpoint.load_best(model)

    def milestone_files(self) -> list[Path]:
        """The milestone checkpoints that exist, in the order of their epochs."""
        return self.checkpoint.milestone_files()

"""Checkpoint: the whole training state, atomically; keeps last, best and milestones.

In the foreground a save only copies the state to buffers in memory; writing, hashing, syncing, renaming
and the portable copies follow in a background thread, and the next save waits for them. A crash at any
moment leaves ``last`` or ``previous`` whole.

    checkpoints/last/         everything a resume needs; state.json lists its files with their digests
    checkpoints/previous/     the one before, in case ``last`` is found damaged
    checkpoints/best.pt       portable: {epoch, model_state_dict, optimizer_state_dict, metrics, config, versions}
    checkpoints/epoch_010.pt  the same at a milestone

Why: docs/decisions/003-state-written-by-us.md
"""

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate import __version__ as accelerate_version
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from labtrail import __version__
from labtrail.contract import BEST_PREFIX
from labtrail.errors import CheckpointError
from labtrail.files import remove, sha256_of, sync_folder, sync_tree, write_atomically
from labtrail.record import Progress, Record, Score
from labtrail.running.seeding import generator_states, set_generator_states
from labtrail.running.snapshot import Background, copied

_log = logging.getLogger("labtrail")

_LAST, _PREVIOUS, _NEW = "last", "previous", "new"
_STATE_FILE = "state.json"
_MODEL_FILE, _OPTIMIZER_FILE = "model.safetensors", "optimizer.pt"
_UPLOAD_EVERY_S = 300.0


class Checkpoint:
    """Saves and restores one run's training state; every rank has one and calls it alike."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        *,
        score: Score | None = None,
        config: Mapping[str, Any] | None = None,
        upload: Callable[[Path], None] | None = None,
        permit: Callable[[], None] = lambda: None,
        attempt: str = "0",
    ) -> None:
        """
        Args:
            folder: where the checkpoints of this run lie; seen by all ranks.
            accelerator: knows what was prepared.
            score: decides which epoch is the best; None: no best is kept.
            config: stored in portable checkpoints.
            upload: called with each finished file or folder; None where ``folder`` is the artifact store.
            attempt: a word that no other process at work on this run has; the same on all ranks.
            permit: called before anything is written or replaced; raises if this process may no longer write.
        """
        self.folder = folder
        self._permit = permit
        self._new = folder / f"{_NEW}-{attempt}"
        self._accelerator = accelerator
        self._score = score
        self._config = dict(config or {})
        self._upload = upload
        self._progress = Progress()
        self._milestones: frozenset[int] = frozenset()
        self._model: nn.Module | None = None
        self._optimizer: Optimizer | None = None
        self._snapshot: dict[str, Any] = {}
        self._saved_epoch = 0
        self._uploaded_at = 0.0
        self._pending: Background | None = None

    def restore(self, model: nn.Module, optimizer: Optimizer, *, milestones: Sequence[int] = ()) -> Progress:
        """Continues from the newest whole checkpoint; call it once, after ``accelerator.prepare``.

        Args:
            model: as ``prepare`` returned it.
            optimizer: likewise.
            milestones: numbers of epochs after which a portable checkpoint is kept.

        Returns:
            The progress to continue from, fresh if there is no checkpoint; the loop advances its ``epoch``.

        Raises:
            CheckpointError: no checkpoint that exists is usable, or it was written by another number of processes.
        """
        self._model, self._optimizer = self._accelerator.unwrap_model(model), optimizer
        self._milestones = frozenset(milestones)
        source = self._agreed(self._find_whole)
        if self._accelerator.is_main_process:
            for left in self.folder.glob(f"{_NEW}-*"):
                remove(left)
        if source is not None:
            state = json.loads((source / _STATE_FILE).read_text())
            self._load(source)
            self._progress.load_state_dict(state["progress"])
            self._saved_epoch = self._progress.epoch
            if self._accelerator.is_main_process:
                self._complete_portables(state)
        self._accelerator.wait_for_everyone()
        return self._progress

    def note_best(self, record: Record) -> dict[str, float]:
        """The ``best/...`` metrics if this record beats all before it, else nothing; notes the best in Progress."""
        value = record.metrics.get(self._score.metric) if self._score else None
        if self._score is None or value is None or not self._score.beats(value, self._progress.best_score):
            return {}
        self._progress.best_score = float(value)
        self._progress.best_epoch = self._progress.epoch
        return {f"{BEST_PREFIX}/{self._score.metric}": float(value), f"{BEST_PREFIX}/epoch": float(record.step)}

    def save(self, record: Record, first: Callable[[], None] = lambda: None) -> None:
        """Saves the state if an epoch was finished since the last save.

        Args:
            record: what was measured at this state.
            first: called before anything is written, behind the training if a state is saved: the log of the
                record, so that a crash in between repeats a point and never loses one.

        Raises:
            CheckpointError: the state cannot be written (a full disk); earlier checkpoints stay as they were.
        """
        self.flush()
        self._permit()
        if self._model is None or self._progress.epoch == self._saved_epoch:
            first()
            return
        main, new = self._accelerator.is_main_process, self._new
        if main:
            with _clear_errors(self.folder):
                remove(new)
                new.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        with _clear_errors(self.folder):
            try:
                torch.save(generator_states(), new / self._random_file())
            except BaseException:
                remove(new)
                raise
        self._accelerator.wait_for_everyone()
        self._saved_epoch = self._progress.epoch
        if main:
            self._snapshot = copied(self._live_state(), self._snapshot)
            state = {
                "progress": self._progress.state_dict(),
                "processes": self._accelerator.num_processes,
                "metrics": dict(record.metrics),
            }
            self._pending = Background(lambda: (first(), self._publish(new, state)))
            self._pending.start()

    def _live_state(self) -> dict[str, Any]:
        assert self._model is not None
        assert self._optimizer is not None
        scaler = self._accelerator.scaler
        return {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def _load(self, source: Path) -> None:
        assert self._model is not None
        assert self._optimizer is not None
        self._model.load_state_dict(load_file(source / _MODEL_FILE))
        stored = torch.load(source / _OPTIMIZER_FILE, map_location="cpu", weights_only=True)
        self._optimizer.load_state_dict(stored["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(stored["scaler"])
        set_generator_states(torch.load(source / self._random_file(), map_location="cpu", weights_only=True))

    def _random_file(self) -> str:
        return f"random_states_{self._accelerator.process_index}.pt"

    def flush(self) -> None:
        """Waits until the last save is durable; raises what went wrong with it."""
        if self._pending is not None:
            # Forgotten only once it has ended: a signal may interrupt the wait.
            try:
                self._pending.wait()
            except Exception:
                self._pending = None
                raise
            self._pending = None

    def finish(self) -> None:
        """Makes everything durable at the end of the task and drops what only a resume needs twice."""
        self.flush()
        if self._accelerator.is_main_process:
            remove(self.folder / _PREVIOUS)
            self.upload_last()

    def upload_last(self) -> None:
        """Brings the newest whole state to the artifact store, where that is elsewhere."""
        if self._upload is not None and self._accelerator.is_main_process and (self.folder / _LAST).exists():
            self._upload(self.folder / _LAST)

    def load_best(self, model: nn.Module) -> None:
        """Puts the best weights into the model; without a best, it keeps the last ones."""
        self.flush()
        self._accelerator.wait_for_everyone()
        path = self.folder / "best.pt"
        if path.exists():
            self._accelerator.unwrap_model(model).load_state_dict(load_portable(path)["model_state_dict"])
        self._accelerator.wait_for_everyone()

    def milestone_files(self) -> list[Path]:
        """The milestone checkpoints that exist, in the order of their epochs."""
        self.flush()
        self._accelerator.wait_for_everyone()
        return sorted(self.folder.glob("epoch_*.pt"))

    def _publish(self, new: Path, state: dict[str, Any]) -> None:
        with _clear_errors(self.folder):
            try:
                self._write(new, state)
            except BaseException:
                remove(new)
                raise

    def _write(self, new: Path, state: dict[str, Any]) -> None:
        save_file(self._snapshot["model"], new / _MODEL_FILE)
        torch.save({name: self._snapshot[name] for name in ("optimizer", "scaler")}, new / _OPTIMIZER_FILE)
        files = sorted(path for path in new.iterdir() if path.is_file())
        state["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
        write_atomically(new / _STATE_FILE, json.dumps(state, indent=1).encode())
        sync_tree(new)
        self._permit()
        last, previous = self.folder / _LAST, self.folder / _PREVIOUS
        remove(previous)
        if last.exists():
            last.rename(previous)
        new.rename(last)
        sync_folder(self.folder)
        for path in self._due_portables(state["progress"]):
            self._write_portable(path, self._snapshot, state)
        if self._upload is not None and time.monotonic() - self._uploaded_at > _UPLOAD_EVERY_S:
            self._upload(last)
            self._uploaded_at = time.monotonic()

    def _due_portables(self, progress: Mapping[str, Any]) -> Iterator[Path]:
        if progress["best_epoch"] == progress["epoch"]:
            yield self.folder / "best.pt"
        if progress["epoch"] in self._milestones:
            yield self.folder / f"epoch_{progress['epoch']:03d}.pt"

    def _write_portable(self, path: Path, live: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        content = {
            "epoch": state["progress"]["epoch"],
            "model_state_dict": live["model"],
            "optimizer_state_dict": live["optimizer"],
            "metrics": state["metrics"],
            "config": self._config,
            "versions": {"labtrail": __version__, "torch": str(torch.__version__), "accelerate": accelerate_version},
        }
        temporary = self._new.with_suffix(".tmp")
        try:
            torch.save(content, temporary)
            sync_folder(temporary)
            self._permit()
            temporary.replace(path)
        finally:
            remove(temporary)
        sync_folder(path.parent)
        if self._upload is not None:
            self._upload(path)

    def _complete_portables(self, state: Mapping[str, Any]) -> None:
        """Writes what a crash between ``last`` and its portable copies has left out, and drops what is ahead of it."""
        best = self.folder / "best.pt"
        if best.exists() and load_portable(best)["epoch"] > state["progress"]["epoch"]:
            remove(best)
        for path in self._due_portables(state["progress"]):
            if not path.exists() or load_portable(path)["epoch"] != state["progress"]["epoch"]:
                self._write_portable(path, copied(self._live_state(), {}), state)

    def _agreed(self, decide: Callable[[], Path | None]) -> Path | None:
        """What the main process decides, on every rank; its CheckpointError is raised on every rank, too."""
        answer: list[Any] = [None, None]
        if self._accelerator.is_main_process:
            try:
                answer = [decide(), None]
            except CheckpointError as error:
                answer = [None, str(error)]
        broadcast_object_list(answer)
        if answer[1] is not None:
            raise CheckpointError(answer[1])
        return answer[0]

    def _find_whole(self) -> Path | None:
        damaged = []
        for name in (_LAST, _PREVIOUS):
            folder = self.folder / name
            if not folder.exists():
                continue
            problem = self._problem(folder)
            if problem is None:
                if damaged:
                    _log.warning("%s; falling back to %s", "; ".join(damaged), folder)
                return folder
            damaged.append(f"checkpoint {folder} is damaged: {problem}")
        if damaged:
            raise CheckpointError(
                f"{'; '.join(damaged)}; no whole checkpoint is left; remove {self.folder} to start over"
            )
        return None

    def _problem(self, folder: Path) -> str | None:
        try:
            state = json.loads((folder / _STATE_FILE).read_text())
            expected = state["files"]
        except (OSError, ValueError, KeyError):
            return f"{_STATE_FILE} is missing or unreadable"
        for name, facts in expected.items():
            path = folder / name
            if not path.exists():
                return f"{name} is missing"
            if path.stat().st_size != facts["bytes"] or sha256_of(path) != facts["sha256"]:
                return f"{name} does not have its recorded digest"
        if state["processes"] != self._accelerator.num_processes:
            raise CheckpointError(
                f"checkpoint {folder} was written by {state['processes']} processes, this launch has "
                f"{self._accelerator.num_processes}; launch the same number, or remove {self.folder} to start over"
            )
        return None


def load_portable(path: Path) -> dict[str, Any]:
    """A portable checkpoint on the CPU; reads tensors and plain values only.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint: {str(error).splitlines()[0]}") from error


@contextmanager
def _clear_errors(folder: Path) -> Generator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write a checkpoint in {folder}: {str(error).splitlines()[0]}; "
            "earlier checkpoints are whole: free some space and run the same command to continue"
        ) from error

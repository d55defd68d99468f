"""Checkpoint: the whole training state, atomically; keeps last, best and milestones.

In the foreground a save only hands the state to the page cache; syncing, renaming, hashing and the
portable copies follow in a background thread, and the next save waits for them. A crash at any moment
leaves ``last`` or ``previous`` whole.

    checkpoints/last/         everything a resume needs; state.json lists its files with their digests
    checkpoints/previous/     the one before, in case ``last`` is found damaged
    checkpoints/best.pt       portable: {epoch, model_state_dict, optimizer_state_dict, metrics, config, versions}
    checkpoints/epoch_010.pt  the same at a milestone
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate import __version__ as accelerate_version
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from labtrail import __version__
from labtrail.contract import BEST_PREFIX
from labtrail.errors import CheckpointError
from labtrail.files import remove, sha256_of, sync_folder, sync_tree, write_atomically
from labtrail.record import Progress, Record

_log = logging.getLogger("labtrail")

_LAST, _PREVIOUS, _NEW = "last", "previous", "new"
_STATE_FILE = "state.json"
_UPLOAD_EVERY_S = 300.0


@dataclass(frozen=True)
class Score:
    """What makes an epoch the best: a metric of its record and a direction."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"

    def beats(self, value: float, best: float | None) -> bool:
        """Whether a value is strictly better than the best so far."""
        if best is None:
            return True
        return value > best if self.direction == "maximize" else value < best


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
    ) -> None:
        """
        Args:
            folder: where the checkpoints of this run lie; seen by all ranks.
            accelerator: knows what was prepared.
            score: decides which epoch is the best; None: no best is kept.
            config: stored in portable checkpoints.
            upload: called with each finished file or folder; None where ``folder`` is the artifact store.
        """
        self.folder = folder
        self._accelerator = accelerator
        self._score = score
        self._config = dict(config or {})
        self._upload = upload
        self._progress = Progress()
        self._milestones: frozenset[int] = frozenset()
        self._model: nn.Module | None = None
        self._saved_epoch = 0
        self._uploaded_at = 0.0
        self._pending: _Background | None = None

    def restore(self, model: nn.Module, *, milestones: Sequence[int] = ()) -> Progress:
        """Continues from the newest whole checkpoint; call it once, after ``accelerator.prepare``.

        Args:
            model: the prepared model whose weights portable checkpoints hold.
            milestones: numbers of epochs after which a portable checkpoint is kept.

        Returns:
            The progress to continue from, fresh if there is no checkpoint; the loop advances its ``epoch``.

        Raises:
            CheckpointError: no checkpoint that exists is usable, or it was written by another number of processes.
        """
        self._model = model
        self._milestones = frozenset(milestones)
        source = self._agreed(self._find_whole)
        if source is not None:
            state = json.loads((source / _STATE_FILE).read_text())
            self._accelerator.load_state(str(source))
            self._progress.load_state_dict(state["progress"])
            self._saved_epoch = self._progress.epoch
            if self._accelerator.is_main_process:
                self._complete_portables(source, state)
        self._accelerator.wait_for_everyone()
        return self._progress

    def judge(self, record: Record) -> dict[str, float]:
        """The ``best/...`` metrics if this record beats all before it, else nothing; notes the best in Progress."""
        value = record.metrics.get(self._score.metric) if self._score else None
        if self._score is None or value is None or not self._score.beats(value, self._progress.best_score):
            return {}
        self._progress.best_score = float(value)
        self._progress.best_epoch = self._progress.epoch
        return {f"{BEST_PREFIX}/{self._score.metric}": float(value), f"{BEST_PREFIX}/epoch": float(record.step)}

    def save(self, record: Record) -> None:
        """Saves the state if an epoch was finished since the last save.

        Raises:
            CheckpointError: the state cannot be written (a full disk); earlier checkpoints stay as they were.
        """
        if self._model is None or self._progress.epoch == self._saved_epoch:
            return
        self.flush()
        new = self.folder / _NEW
        if self._accelerator.is_main_process:
            with _clear_errors(self.folder):
                remove(new)
                new.mkdir(parents=True)
        self._accelerator.wait_for_everyone()
        with _clear_errors(self.folder):
            self._accelerator.save_state(str(new))
        self._accelerator.wait_for_everyone()
        self._saved_epoch = self._progress.epoch
        if self._accelerator.is_main_process:
            state = {
                "progress": self._progress.state_dict(),
                "processes": self._accelerator.num_processes,
                "metrics": dict(record.metrics),
            }
            self._pending = _Background(lambda: self._publish(new, state))
            self._pending.start()

    def flush(self) -> None:
        """Waits until the last save is durable; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with _clear_errors(self.folder):
                pending.wait()

    def finish(self) -> None:
        """Makes everything durable at the end of the task and drops what only a resume needs twice."""
        self.flush()
        if self._accelerator.is_main_process:
            remove(self.folder / _PREVIOUS)
            if self._upload is not None and (self.folder / _LAST).exists():
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
        files = sorted(path for path in new.iterdir() if path.is_file())
        state["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
        write_atomically(new / _STATE_FILE, json.dumps(state, indent=1).encode())
        sync_tree(new)
        last, previous = self.folder / _LAST, self.folder / _PREVIOUS
        remove(previous)
        if last.exists():
            last.rename(previous)
        new.rename(last)
        sync_folder(self.folder)
        for path in self._due_portables(state["progress"]):
            self._write_portable(path, last, state)
        if self._upload is not None and time.monotonic() - self._uploaded_at > _UPLOAD_EVERY_S:
            self._upload(last)
            self._uploaded_at = time.monotonic()

    def _due_portables(self, progress: Mapping[str, Any]) -> Iterator[Path]:
        if progress["best_epoch"] == progress["epoch"]:
            yield self.folder / "best.pt"
        if progress["epoch"] in self._milestones:
            yield self.folder / f"epoch_{progress['epoch']:03d}.pt"

    def _write_portable(self, path: Path, source: Path, state: Mapping[str, Any]) -> None:
        # The saved files are turned into the portable form, so that training never waits for a second copy.
        weights = {
            name.removeprefix("module."): value for name, value in load_file(source / "model.safetensors").items()
        }
        assert self._model is not None
        names = self._accelerator.unwrap_model(self._model).state_dict()
        optimizer = source / "optimizer.bin"
        content = {
            "epoch": state["progress"]["epoch"],
            "model_state_dict": {name: weights[name] for name in names},
            "optimizer_state_dict": torch.load(optimizer, weights_only=True) if optimizer.exists() else {},
            "metrics": state["metrics"],
            "config": self._config,
            "versions": {"labtrail": __version__, "torch": str(torch.__version__), "accelerate": accelerate_version},
        }
        temporary = path.with_suffix(".tmp")
        try:
            torch.save(content, temporary)
            sync_folder(temporary)
            temporary.replace(path)
        finally:
            remove(temporary)
        sync_folder(path.parent)
        if self._upload is not None:
            self._upload(path)

    def _complete_portables(self, source: Path, state: Mapping[str, Any]) -> None:
        """Writes what a crash between ``last`` and its portable copies has left out."""
        for path in self._due_portables(state["progress"]):
            if not path.exists() or load_portable(path)["epoch"] != state["progress"]["epoch"]:
                self._write_portable(path, source, state)

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
            raise CheckpointError(f"{'; '.join(damaged)}; no whole checkpoint is left, start anew with --again")
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
                f"{self._accelerator.num_processes}; launch the same number, or start anew with --again"
            )
        return None


class _Background:
    """One call in a thread of its own.

    A daemon thread and not an executor: a signal's exception inside an executor's first submit leaves a
    thread that the interpreter waits for at exit, for ever.
    """

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="labtrail-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        """Waits for the end of the call and raises what it raised."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self._error = error


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

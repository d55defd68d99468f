"""Checkpoint: the whole training state, atomically; keeps last, best and milestones.

In the foreground a save only copies the state to buffers in memory; writing, hashing, syncing, renaming
and the portable copies follow in a background thread, and the next save waits for them. A crash at any
moment leaves ``last`` or ``previous`` whole.

    checkpoints/last/         everything a resume needs; state.json lists its files with their digests
    checkpoints/previous/     the one before, in case ``last`` is found damaged
    checkpoints/best.pt       portable: {epoch, model_state_dict, optimizer_state_dict, metrics, config, versions},
                              and step, if it was the best inside an epoch
    checkpoints/epoch_010.pt  the same at a milestone

Why: docs/decisions/003-state-written-by-us.md
"""

import json
import logging
import shutil
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

from labtrail import __version__
from labtrail.config import Checkpointing
from labtrail.errors import CheckpointError
from labtrail.files import remove, sha256_of, sync_folder, sync_tree, write_atomically
from labtrail.record import Record, Score
from labtrail.running.cadence import Cadence
from labtrail.running.progress import Progress
from labtrail.running.snapshot import Background, bytes_of, copied, revived
from labtrail.running.state import (
    Stateful,
    TrainingState,
    one_module,
    process_generators,
    put_process_generators,
    write_state,
)
from labtrail.store.contract import BEST_PREFIX

_log = logging.getLogger("labtrail")

_LAST, _PREVIOUS, _NEW = "last", "previous", "new"
_STATE_FILE = "state.json"
_UPLOAD_EVERY_S = 300.0
_DEFAULTS = Checkpointing()


class Checkpoint:
    """Saves and restores one run's training state; every rank has one and calls it alike.

    Attributes:
        folder: where the checkpoints lie.
        saved_at: the place of the newest state: epochs that are done, and steps of the one at work.
        stream: of random numbers, from which the loader of the epoch at work draws.
    """

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
        settings: Checkpointing = _DEFAULTS,
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
            settings: when states are saved inside an epoch, and how many are kept.
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
        self._state: TrainingState | None = None
        self.saved_at = (0, 0)
        self.stream: Stateful | None = None
        self._uploaded_at = 0.0
        self._pending: Background | None = None
        self._settings, self._cadence = settings, Cadence.read(settings.every)
        self._source: Path | None = None
        self._begun: dict[str, Any] = {}
        self._begun_before: dict[str, Any] = {}

    def restore(
        self, model: Any = None, optimizer: Any = None, *, milestones: Sequence[int] = (), **state: Any
    ) -> Progress:
        """Continues from the newest whole checkpoint; call it once, after ``accelerator.prepare``.

        Args:
            model: a module as ``prepare`` returned it, a list or dict of modules, or None.
            optimizer: as ``prepare`` returned it, a list or dict of optimizers, or None.
            milestones: numbers of epochs after which a portable checkpoint is kept.
            state: what else changes from epoch to epoch, each under a name that is free to choose.

        Returns:
            The progress to continue from, fresh if there is no checkpoint; the loop advances its ``epoch``.

        Raises:
            CheckpointError: no checkpoint that exists is usable, it was written by another number of processes or
                holds other things, something given has no state that can be kept, or this is the second call.
        """
        if self._state is not None:
            raise CheckpointError(
                "restore: it was called before, and a checkpoint holds the state of one call; give all at once: "
                "restore([first, second], [first_optimizer, second_optimizer], name=more)"
            )
        self._state = TrainingState(self._accelerator, model, optimizer, state)
        self._milestones = frozenset(milestones)
        source = self._agreed(self._find_whole)
        if self._accelerator.is_main_process:
            for left in self.folder.glob(f"{_NEW}-*"):
                remove(left)
            if source is None:
                self._require_space(self._state.size)
        if source is not None:
            saved = json.loads((source / _STATE_FILE).read_text())
            self._source = source
            self.reload()
            self._progress.load_state_dict(saved["progress"])
            self.saved_at = self._progress.place
            if self._accelerator.is_main_process:
                self._complete_portables(saved)
        self._accelerator.wait_for_everyone()
        return self._progress

    def reload(self) -> None:
        """Puts everything back to the state that ``restore`` has found, the generators of this process too."""
        assert self._state is not None
        assert self._source is not None
        self._state.load(self._source)
        stored = torch.load(self._source / self._random_file(), map_location="cpu", weights_only=True)
        put_process_generators(stored)
        self._begun_before = revived(stored.get("begun", {}))

    def begin_steps(self) -> Mapping[str, Any]:
        """Notes where generators stand as an epoch's steps begin, so that a resumed run draws the same order again.

        Returns:
            Where they stood when the epoch began that is resumed in its midst; empty for an epoch from its start.
        """
        assert self._state is not None
        self._begun = self._begun_before if self._progress.step else {}
        self._begun_before = {}
        if self._begun:
            self._state.put_generators(self._begun["kept"])
        else:
            seed = int(torch.randint(2**62, ()))
            self._begun = {"kept": copied(self._state.generators(), None), "seed": seed}
        return self._begun

    def note_best(self, record: Record) -> dict[str, float]:
        """The ``best/...`` metrics if this record beats all before it, else nothing; notes the best in Progress."""
        value = record.metrics.get(self._score.metric) if self._score else None
        if self._score is None or value is None or not self._score.beats(value, self._progress.best_score):
            return {}
        self._progress.best_score = float(value)
        self._progress.best_epoch, self._progress.best_step = self._progress.place
        return {f"{BEST_PREFIX}/{self._score.metric}": float(value), f"{BEST_PREFIX}/epoch": float(record.step)}

    def save(self, record: Record, first: Callable[[], None] = lambda: None) -> None:
        """Saves the state if the progress has moved since the last save.

        Args:
            record: what was measured at this state.
            first: called before anything is written, behind the training if a state is saved: the log of the
                record, so that a crash in between repeats a point and never loses one.

        Raises:
            CheckpointError: the state cannot be written (a full disk); earlier checkpoints stay as they were.
        """
        self.flush()
        self._permit()
        if self._state is None or not self._is_due(record):
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
                torch.save({**process_generators(), "begun": self._begun_and_now()}, new / self._random_file())
            except BaseException:
                remove(new)
                raise
        self._accelerator.wait_for_everyone()
        self.saved_at = self._progress.place
        self._cadence.note_save()
        if main:
            copy = self._state.copy()
            self._require_space(bytes_of(copy))
            facts = {
                "progress": self._progress.state_dict(),
                "processes": self._accelerator.num_processes,
                "metrics": dict(record.metrics),
            }
            self._pending = Background(lambda: (first(), self._publish(new, copy, facts)))
            self._pending.start()

    def save_within(self, record: Record) -> None:
        """Saves the state between two steps if that is due; waits for an earlier save only then."""
        if self._state is not None and self._is_due(record):
            self.save(record)

    def keeps(self, thing: Any) -> bool:
        """Whether something is a part of the state that is kept."""
        return self._state is not None and self._state.keeps(thing)

    def kept_tensors(self) -> set[int]:
        """Addresses of the tensors that are kept."""
        return self._state.addresses() if self._state is not None else set()

    def _begun_and_now(self) -> dict[str, Any]:
        """Where generators stood as the epoch began, and where the stream of its loader stands; {} between epochs."""
        if not self._progress.step or self.stream is None:
            return {}
        return {**self._begun, "stream": self.stream.state_dict()}

    def _is_due(self, record: Record) -> bool:
        """Whether this state is to be saved: at an epoch's end always, inside an epoch at times and if it is the best.

        Ranks agree, since they count the same steps; by the clock, the main process decides.
        """
        place = self._progress.place
        if place == self.saved_at:
            return False
        if not self._progress.step:
            return True
        is_best = bool(record.metrics) and place == (self._progress.best_epoch, self._progress.best_step)
        due = self._cadence.is_due(self._progress.step)
        if self._cadence.seconds is not None and self._accelerator.num_processes > 1:
            due = broadcast_object_list([due])[0]
        return is_best or due

    def _require_space(self, needed: int) -> None:
        """
        Raises:
            CheckpointError: the disk has less space than a state takes.
        """
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise CheckpointError(
                f"cannot write a checkpoint in {self.folder}: it takes {needed / 2**20:.0f} MiB, "
                f"{free / 2**20:.0f} MiB are free; earlier checkpoints are whole: free some space and run the same "
                "command to continue"
            )

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

    def load_best(self, model: Any) -> None:
        """Puts the best weights into the model; without a best, it keeps those it has, and a warning says so.

        Args:
            model: as it was given to ``restore``.
        """
        self.flush()
        self._accelerator.wait_for_everyone()
        path = self.folder / "best.pt"
        if path.exists():
            weights = revived(load_portable(path)["model_state_dict"])
            one_module(model, self._accelerator.unwrap_model).load_state_dict(weights)
        elif self._accelerator.is_main_process:
            metric = f"no Record has had its score {self._score.metric}" if self._score else "its task names no score"
            _log.warning("load_best: no best weights are kept, since %s; the model keeps those it has", metric)
        self._accelerator.wait_for_everyone()

    def milestone_files(self) -> list[Path]:
        """The milestone checkpoints that exist, in the order of their epochs."""
        self.flush()
        self._accelerator.wait_for_everyone()
        return sorted(self.folder.glob("epoch_*.pt"))

    def _publish(self, new: Path, copy: Mapping[str, Any], state: dict[str, Any]) -> None:
        with _clear_errors(self.folder):
            try:
                self._write(new, copy, state)
            except BaseException:
                remove(new)
                raise

    def _write(self, new: Path, copy: Mapping[str, Any], state: dict[str, Any]) -> None:
        write_state(copy, new)
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
        if self._settings.keep == 1:
            remove(previous)
        for path in self._due_portables(state["progress"]):
            self._write_portable(path, copy, state)
        if self._upload is not None and time.monotonic() - self._uploaded_at > _UPLOAD_EVERY_S:
            self._upload(last)
            self._uploaded_at = time.monotonic()

    def _due_portables(self, progress: Mapping[str, Any]) -> Iterator[Path]:
        # A run whose state lies elsewhere has no weights to hand on.
        if self._state is None or not self._state.has_weights:
            return
        place = _place_in(progress)
        if (progress["best_epoch"], progress.get("best_step", 0)) == place:
            yield self.folder / "best.pt"
        if progress["epoch"] in self._milestones and place[1] == 0:
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
        if step := state["progress"].get("step", 0):
            content["step"] = step
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
        place = _place_in(state["progress"])
        if best.exists() and _place_in(load_portable(best)) > place:
            remove(best)
        for path in self._due_portables(state["progress"]):
            if not path.exists() or _place_in(load_portable(path)) != place:
                assert self._state is not None
                self._write_portable(path, self._state.copy(), state)

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


def _place_in(progress: Mapping[str, Any]) -> tuple[int, int]:
    """Epochs that are done, and steps of the one at work; what was written before there were steps has none."""
    return progress["epoch"], progress.get("step", 0)


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

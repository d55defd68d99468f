"""Notices, while a task runs, what a killed and resumed run would get wrong without a word.

Its checks cost nothing between Records; what changes from Record to Record is looked at after 1, 2, 4, 8, ... of them.

Why: docs/decisions/056-lost-state-is-named.md
"""

import logging
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from labtrail.errors import LabtrailError
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.progress import Progress
from labtrail.running.state import Stateful, bare, is_generator, stateful, tensors_of

_log = logging.getLogger("labtrail")

_DEPTH, _MOST_ELEMENTS, _MOST_NUMBERS = 4, 64, 1 << 20
_HANDED_OUT = ("labtrail.", "accelerate.", "mlflow.")


def warn(text: str) -> None:
    """The complaint of a run that goes on."""
    _log.warning("%s", text)


class Watch:
    """Looks at a task from outside, at each of its Records.

    Use it as a context around the task's loop: optimizers are counted in it.
    """

    def __init__(self, complain: Callable[[str], None] = warn) -> None:
        """
        Args:
            complain: is given each finding, once.
        """
        self._complain = complain
        self._said: set[str] = set()
        self._records: Generator[Any] | types.FrameType | None = None
        self._checkpoint: Checkpoint | None = None
        self._line = ""
        self._looks = 0
        self._seen: dict[int, tuple[Any, str, Any]] = {}
        self._stepped: dict[int, Optimizer] = {}
        self._steps = 0
        self._place = self._place_at_first_step = (0, 0)
        self._progress: Progress | None = None
        self._uncounted = 0
        self._handle: Any = None
        self._with_gradients = True
        self._elsewhere = False

    def __enter__(self) -> "Watch":
        self._handle = register_optimizer_step_post_hook(self._count)
        self._with_gradients = torch.is_grad_enabled()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        self._records = None
        self._seen.clear()
        self._stepped.clear()

    def follow(self, records: Generator[Any] | types.FrameType) -> None:
        """Says whose Records they are: the variables of a task's function are what lives from one to the next.

        Args:
            records: the task at work, or the frame of a loop that logs by itself.
        """
        self._records = records

    def state_lies_elsewhere(self) -> None:
        """Leaves the state alone: another library keeps it, and an adapter sees to it that it does."""
        self._elsewhere = True

    def restored(self, checkpoint: Checkpoint, progress: Progress) -> None:
        """Notes that the task has called ``restore``, and in which line."""
        self._checkpoint, self._progress = checkpoint, progress
        self._place = self._place_at_first_step = progress.place
        self._line = _calling_line()

    def _count(self, optimizer: Optimizer, *_: object) -> None:
        if not self._steps and self._progress is not None:
            self._place_at_first_step = self._progress.place
        self._steps += 1
        self._stepped[id(optimizer)] = optimizer

    def look(self, progress: Progress) -> None:
        """Looks at what a Record leaves behind; call it once the Record is counted.

        Raises:
            LabtrailError: the state would be saved under a wrong epoch.
        """
        if self._with_gradients and (not torch.is_grad_enabled() or torch.is_inference_mode_enabled()):
            self._say(
                f"{self._yielding_line()}: gradients are switched off where the Record is yielded, and would be for "
                "all that runs until the next one; yield outside of torch.no_grad"
            )
        if self._elsewhere:
            return
        self._look_at_progress(progress)
        if self._handle is not None:
            self._look_at_state()
        self._steps, self._stepped = 0, {}

    def _look_at_progress(self, progress: Progress) -> None:
        if self._checkpoint is None:
            if self._steps:
                self._say(
                    f"{self._yielding_line()}: an optimizer has taken steps, and restore was never called: a killed "
                    "run starts over; use run.epochs, or run.restore"
                )
            return
        late = self._uncounted and self._place_at_first_step != self._place
        if late and self._steps and progress.place == self._place_at_first_step:
            raise LabtrailError(
                f"{self._yielding_line()}: progress.epoch is advanced after the yield: the state of epoch "
                f"{progress.epoch} would be saved as that of epoch {progress.epoch - 1}, and a resumed run would train "
                "it twice; set it before the yield, or use run.epochs"
            )
        self._uncounted = self._uncounted + 1 if self._steps and progress.place == self._place else 0
        if self._uncounted == 2:
            self._say(
                f"{self._yielding_line()}: progress.epoch stays at {progress.epoch} from Record to Record, so that no "
                "state is saved: a killed run starts over from there; advance it before the yield, or use run.epochs"
            )
        self._place = progress.place

    def _look_at_state(self) -> None:
        self._looks += 1
        # After 1, 2, 4, 8, ... Records: a run of many thousands is not slowed down.
        if self._checkpoint is None or self._looks & (self._looks - 1):
            return
        kept = self._checkpoint.kept_tensors()
        for optimizer in self._stepped.values():
            if not self._is_kept(optimizer, kept):
                self._say(_lost(_variable_of(optimizer, self._locals()) or "optimizer", optimizer, self._line))
        present = {}
        for name, value in _candidates(self._locals()):
            try:
                if self._is_kept(value, kept):
                    continue
                state = _fingerprint(value)
            except Exception as error:
                # Whatever a stranger's state_dict does, watching must not end the run.
                _log.debug("%s is not watched: %s: %s", name, type(error).__name__, error)
                continue
            _, _, before = self._seen.get(id(value), (None, "", state))
            if state != before:
                self._say(_lost(name, value, self._line))
            present[id(value)] = (value, name, state)
        # The things themselves are held, too: an address that is used again is another thing.
        self._seen = present

    def _is_kept(self, value: Any, kept: set[int]) -> bool:
        assert self._checkpoint is not None
        if self._checkpoint.keeps(value):
            return True
        tensors = [tensor for tensor in _tensors_in(value) if tensor.numel() > 1]
        return bool(tensors) and all(tensor.data_ptr() in kept for tensor in tensors)

    def _locals(self) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        for frame in _frames(self._records):
            outside = {name: value for name, value in frame.f_globals.items() if is_generator(value)}
            variables = {**outside, **variables, **frame.f_locals}
        return variables

    def _yielding_line(self) -> str:
        frames = list(_frames(self._records))
        return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "the task"

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._complain(text)


def _frames(records: Any) -> Iterator[types.FrameType]:
    """The frames that wait for the next Record: the task's function, and what it delegates to."""
    if isinstance(records, types.FrameType):
        yield records
    while isinstance(records, types.GeneratorType):
        if records.gi_frame is not None:
            yield records.gi_frame
        records = records.gi_yieldfrom


def _calling_line() -> str:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("labtrail.running."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "run.restore"


def _candidates(variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What may hold state among variables, in what they are made of too: (name, thing)."""
    seen: set[int] = set()

    def walk(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
        if id(value) in seen or depth > _DEPTH or isinstance(value, type | types.ModuleType | types.FunctionType):
            return
        seen.add(id(value))
        if isinstance(value, DataLoader):
            yield from walk(f"{name}.generator", value.generator, depth)
            yield from walk(f"{name}.sampler.generator", getattr(value.sampler, "generator", None), depth)
            return
        # What labtrail itself hands out is no state; wrappers of accelerate are looked through.
        value = bare(value)
        if type(value).__module__.startswith(_HANDED_OUT):
            return
        if isinstance(value, nn.Module | Optimizer | LRScheduler) or is_generator(value) or _has_state(value):
            yield name, value
            return
        for inner_name, inner in _parts(value):
            yield from walk(f"{name}{inner_name}", inner, depth + 1)

    for name, value in variables.items():
        yield from walk(name, value, 0)


def _has_state(value: Any) -> bool:
    return isinstance(value, Stateful)


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", part) for key, part in list(value.items())[:_MOST_ELEMENTS]]
    if isinstance(value, list | tuple):
        return [(f"[{place}]", part) for place, part in enumerate(value[:_MOST_ELEMENTS])]
    attributes = getattr(value, "__dict__", None)
    return [(f".{name}", part) for name, part in attributes.items()] if isinstance(attributes, dict) else []


def _tensors_in(value: Any) -> list[torch.Tensor]:
    if isinstance(value, nn.Module):
        return [*value.parameters(), *value.buffers()]
    if isinstance(value, Optimizer):
        return list(tensors_of(list(value.state.values())))
    return list(tensors_of(value.state_dict())) if _has_state(value) and not is_generator(value) else []


def _fingerprint(value: Any) -> Any:
    """Something that differs, in all likelihood, where the state does."""
    state = stateful("", value, lambda module: module).state_dict()
    return _condensed(state)


def _condensed(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _sums(value)
    if isinstance(value, Mapping):
        return tuple((str(key), _condensed(inner)) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_condensed, value))
    return repr(value) if isinstance(value, int | float | str | bytes | bool | None) else str(value)


def _sums(tensor: torch.Tensor) -> tuple[float, ...]:
    flat = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
    numbers = torch.view_as_real(flat) if flat.is_complex() else flat
    numbers = numbers.flatten()
    numbers = numbers[:: max(1, numbers.numel() // _MOST_NUMBERS)].double()
    weights = torch.arange(1, numbers.numel() + 1, dtype=torch.float64, device=numbers.device)
    return float(numbers.nansum()), float((numbers * weights).nansum())


def _variable_of(value: Any, variables: Mapping[str, Any]) -> str:
    return next((name for name, known in _candidates(variables) if known is value), "")


def _lost(name: str, value: Any, line: str) -> str:
    word = name.rsplit(".", maxsplit=1)[-1].split("[", maxsplit=1)[0] or "state"
    return (
        f"{name} ({type(value).__name__}) changes from Record to Record and is not kept: a resumed run would begin it "
        f"anew; give it to run.restore or run.epochs, in {line}: {word}={name}"
    )

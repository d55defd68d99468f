"""What a training keeps: everything that changes from epoch to epoch, each under a name, read out and put back.

Why: docs/decisions/054-any-state-is-kept-or-refused.md
"""

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labtrail.errors import CheckpointError
from labtrail.running.seeding import generator_states, set_generator_states
from labtrail.running.snapshot import bytes_of, copied, revived

MODEL_FILE, REST_FILE = "model.safetensors", "optimizer.pt"
Unwrap = Callable[[nn.Module], nn.Module]


@runtime_checkable
class Stateful(Protocol):
    """What most things of torch are: a state as nested tensors and plain values, and a way to put it back."""

    def state_dict(self) -> Any:
        """The state."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Takes a state over."""


class _Whole:
    """State that is read and put back by a function each."""

    def __init__(self, read: Callable[[], Any], put_back: Callable[[Any], Any]) -> None:
        self._read, self._put_back = read, put_back

    def state_dict(self) -> Any:
        return self._read()

    def load_state_dict(self, state_dict: Any) -> None:
        self._put_back(state_dict)


class _Several:
    """The states of several things, in the order or under the names in which they were given."""

    def __init__(self, parts: Mapping[Any, Stateful]) -> None:
        self._parts = parts

    def state_dict(self) -> dict[Any, Any]:
        return {key: part.state_dict() for key, part in self._parts.items()}

    def load_state_dict(self, state_dict: Mapping[Any, Any]) -> None:
        if set(state_dict) != set(self._parts):
            raise CheckpointError(f"the checkpoint has {_listed(state_dict)}, restore was given {_listed(self._parts)}")
        for key, part in self._parts.items():
            part.load_state_dict(state_dict[key])


def stateful(name: str, value: Any, unwrap: Unwrap) -> Stateful:
    """A thing as something whose state can be read out and put back into that same thing.

    Args:
        name: under which it was given to ``restore``.
        value: has ``state_dict`` and ``load_state_dict``; or a generator of torch, NumPy or Python, a tensor or an
            array, a dataclass, list or dict of plain values; or a list, tuple or dict of such things.
        unwrap: takes off what ``accelerator.prepare`` has put around a module.

    Raises:
        CheckpointError: it is none of these.
    """
    if isinstance(value, nn.Module):
        return unwrap(value)
    if not isinstance(value, type) and isinstance(value, Stateful):
        return value
    if (whole := _generator(value) or _in_place(value)) is not None:
        return whole
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        return _Several({key: stateful(f"{name}.{key}", part, unwrap) for key, part in pairs})
    raise CheckpointError(
        f"restore: {name}: a {type(value).__name__} has no state that can be put back; give a thing with state_dict "
        "and load_state_dict, a generator, or a dataclass, list or dict of plain values"
    )


def is_generator(value: Any) -> bool:
    """Whether it is a source of random numbers whose state is kept whole."""
    return _generator(value) is not None


def _generator(value: Any) -> Stateful | None:
    if isinstance(value, torch.Generator):
        return _Whole(value.get_state, value.set_state)
    if isinstance(value, np.random.Generator):
        value = value.bit_generator
    if isinstance(value, np.random.BitGenerator):
        bits = value
        return _Whole(lambda: bits.state, lambda state: setattr(bits, "state", state))
    if isinstance(value, np.random.RandomState):
        return _Whole(lambda: value.get_state(legacy=False), value.set_state)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return _Whole(value.getstate, value.setstate)
    return None


def _in_place(value: Any) -> Stateful | None:
    """Things that hold plain values and take others."""
    if isinstance(value, Tensor):
        return _Whole(lambda: value, lambda state: value.detach().copy_(state))
    if isinstance(value, np.ndarray):
        return _Whole(lambda: value, lambda state: np.copyto(value, state))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if value.__dataclass_params__.frozen:
            return None
        return _Whole(lambda: dict(vars(value)), lambda state: vars(value).update(state))
    if isinstance(value, list) and _is_plain(value):
        return _Whole(lambda: value, lambda state: value.__setitem__(slice(None), state))
    if isinstance(value, dict) and _is_plain(value):
        return _Whole(lambda: value, lambda state: (value.clear(), value.update(state)))
    return None


def _is_plain(value: Any) -> bool:
    """Whether there are only plain values in it, which can be put back by replacing them all."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | complex | str | bytes | type(None))


def process_generators() -> dict[str, Any]:
    """The states of this process's generators; on a GPU that of its own device, whatever others are visible."""
    states = generator_states()
    return {**states, "cuda": states["cuda"] and [states["cuda"][torch.cuda.current_device()]]}


def put_process_generators(states: Mapping[str, Any]) -> None:
    """Puts them back; on another kind of device than before, the generator of the device stays as it is."""
    set_generator_states({**states, "cuda": []})
    if states["cuda"] and torch.cuda.is_initialized():
        # Earlier versions kept the states of all devices, in their order.
        place = torch.cuda.current_device() if len(states["cuda"]) > torch.cuda.current_device() else 0
        torch.cuda.set_rng_state(states["cuda"][place])


def one_module(model: Any, unwrap: Unwrap) -> nn.Module:
    """One or several modules as one, so that their weights lie in one file.

    Args:
        model: a module; a list or a dict of modules; None: there is none.
        unwrap: takes off what ``accelerator.prepare`` has put around a module.

    Raises:
        CheckpointError: it is something else.
    """
    if isinstance(model, nn.Module):
        return unwrap(model)
    if isinstance(model, Mapping):
        return nn.ModuleDict({str(name): one_module(part, unwrap) for name, part in model.items()})
    if isinstance(model, list | tuple):
        return nn.ModuleList([one_module(part, unwrap) for part in model])
    if model is None:
        return nn.Module()
    raise CheckpointError(f"restore: model: a {type(model).__name__} is no torch module, list or dict of modules")


class TrainingState:
    """The model, the optimizer and everything else that a training keeps; the same on all ranks.

    Attributes:
        model: one module, or several as one.
        things: what was given and registered, by name.
        has_weights: whether the model has any.
        size: bytes of its tensors at the beginning; an optimizer gets its own with the first step.
    """

    def __init__(self, accelerator: Accelerator, model: Any, optimizer: Any, further: Mapping[str, Any]) -> None:
        """
        Args:
            accelerator: what was registered with it, and schedulers that it has prepared, are kept as well.
            model: a module, a list or a dict of modules, or None; its weights are what portable checkpoints hold.
            optimizer: anything with a state, or None.
            further: more of it, by name.

        Raises:
            CheckpointError: something has no state, or has one that cannot be kept.
        """
        self._accelerator = accelerator
        self.model = one_module(model, accelerator.unwrap_model)
        self.things = {"model": model, "optimizer": optimizer, **further}
        self._registered = len(accelerator._custom_objects)
        added = self._of_accelerator({id(bare(thing)) for thing in every(self.things.values())})
        self.things |= added
        self._optimizer = self._stateful("optimizer", optimizer) if optimizer is not None else None
        self._further = {name: self._stateful(name, part) for name, part in {**further, **added}.items()}
        # A first copy shows whether everything can be kept; its buffers are those of the copies to come.
        self._snapshot: Any = copied(self.live(), None)
        self.has_weights = bool(self._snapshot["model"])
        self.size = bytes_of(self._snapshot)
        if not accelerator.is_main_process:
            self._snapshot = None

    def _stateful(self, name: str, value: Any) -> Stateful:
        return stateful(name, value, self._accelerator.unwrap_model)

    def _of_accelerator(self, known: set[int]) -> dict[str, Any]:
        """What the Accelerator has been asked to keep, and was not given by name as well."""
        # It lists those of other runs, too, that this process works on.
        schedulers = [
            part for part in self._accelerator._schedulers if id(bare(getattr(bare(part), "optimizer", None))) in known
        ]
        groups = {"registered": self._accelerator._custom_objects, "scheduler": schedulers}
        return {
            f"accelerator.{group}.{place}": part
            for group, parts in groups.items()
            for place, part in enumerate(parts)
            if id(bare(part)) not in known
        }

    def live(self) -> dict[str, Any]:
        """The state as it is at this moment; its tensors are those in use."""
        if len(self._accelerator._custom_objects) != self._registered:
            raise CheckpointError(
                "accelerator.register_for_checkpointing was called after run.restore, so that what it was given would "
                "not be put back; call it before"
            )
        scaler = self._accelerator.scaler
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict() if self._optimizer is not None else {},
            "scaler": scaler.state_dict() if scaler is not None else {},
            **({"further": {name: part.state_dict() for name, part in self._further.items()}} if self._further else {}),
        }

    def copy(self) -> dict[str, Any]:
        """A copy of the state on the CPU, in the buffers of the copy before."""
        self._snapshot = copied(self.live(), self._snapshot)
        return self._snapshot

    def keeps(self, thing: Any) -> bool:
        """Whether something was given, by itself or in a list or dict, or is an attribute of something given."""
        things = list(map(bare, every(self.things.values())))
        inside = (inner for part in things if hasattr(part, "__dict__") for inner in vars(part).values())
        return any(bare(thing) is part for part in (*things, *map(bare, inside)))

    def addresses(self) -> set[int]:
        """Where the tensors of the state lie in memory."""
        return {tensor.data_ptr() for tensor in tensors_of(self.live()) if tensor.layout == torch.strided}

    def generators(self) -> dict[str, Any]:
        """States of the generators among what is kept, by name."""
        return {name: part.state_dict() for name, part in self._generators()}

    def put_generators(self, states: Mapping[str, Any]) -> None:
        """Puts these generators back to where ``generators`` found them."""
        for name, part in self._generators():
            part.load_state_dict(states[name])

    def _generators(self) -> Iterable[tuple[str, Stateful]]:
        return ((name, part) for name, part in self._further.items() if is_generator(self.things[name]))

    def load(self, folder: Path) -> None:
        """Takes over what ``write_state`` has left in a folder.

        Raises:
            CheckpointError: it is the state of other things, or does not fit.
        """
        stored = read_state(folder)
        further = stored.get("further", {})
        if set(further) != set(self._further):
            raise CheckpointError(
                f"checkpoint {folder} holds, beside model and optimizer, {_listed(further)}; restore was given "
                f"{_listed(self._further)}: give it the same, or remove the folder to start over"
            )
        _load("model", self.model, stored["model"], folder)
        if self._optimizer is not None:
            _load("optimizer", self._optimizer, stored["optimizer"], folder)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(stored["scaler"])
        for name, part in self._further.items():
            _load(name, part, further[name], folder)


def write_state(copy: Mapping[str, Any], folder: Path) -> None:
    """Writes a copy of the state: weights that safetensors can hold in one file, the rest in another."""
    plain = {name: value for name, value in copy["model"].items() if _is_dense(value)}
    rest = {name: value for name, value in copy["model"].items() if name not in plain}
    save_file(plain, folder / MODEL_FILE)
    torch.save(
        {**{k: v for k, v in copy.items() if k != "model"}, **({"rest": rest} if rest else {})}, folder / REST_FILE
    )


def read_state(folder: Path) -> dict[str, Any]:
    """What ``write_state`` has left in a folder, on the CPU."""
    stored = torch.load(folder / REST_FILE, map_location="cpu", weights_only=True)
    return revived({**stored, "model": {**load_file(folder / MODEL_FILE), **stored.get("rest", {})}})


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized


def _load(name: str, part: Stateful, stored: Any, folder: Path) -> None:
    try:
        part.load_state_dict(stored)
    except (CheckpointError, RuntimeError, KeyError, ValueError, TypeError) as error:
        problem = " ".join(str(error).split())[:300]
        raise CheckpointError(f"checkpoint {folder} does not fit {name}: {problem}; remove it to start over") from error


def bare(part: Any) -> Any:
    """A thing without what ``accelerator.prepare`` has put around it."""
    for attribute in ("scheduler", "optimizer"):
        if type(part).__module__.startswith("accelerate.") and hasattr(part, attribute):
            return getattr(part, attribute)
    return part


def every(values: Iterable[Any]) -> Iterable[Any]:
    """Things, and those in the lists and dicts among them."""
    for value in values:
        yield value
        if isinstance(value, Mapping):
            yield from every(value.values())
        elif isinstance(value, list | tuple):
            yield from every(value)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    """The tensors and plain values in nested state, by the way to each."""
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(part, Tensor | Mapping | list | tuple) for part in value):
        pairs = enumerate(value)
    else:
        return {name: value}
    return {
        way: leaf for key, part in pairs for way, leaf in leaves(part, f"{name}.{key}" if name else str(key)).items()
    }


def tensors_of(value: Any) -> Iterable[Tensor]:
    """The tensors in nested state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors_of(inner)


def _listed(names: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, names))) or "nothing"

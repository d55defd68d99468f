"""What a graph takes for granted: numbers that are part of it, and tensors that stay the ones they are."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from labtrail.stepgraph import compat
from labtrail.stepgraph.step import TraceError, TrainingStep


class Numbers(NamedTuple):
    """What a step knows that is not a tensor.

    Attributes:
        settings: of each parameter group of the optimizer: learning rate and the like.
        state: of the optimizer, in the order of parameters and of names.
        batch: in the order of its leaves.
    """

    settings: tuple[Mapping[str, Any], ...]
    state: tuple[Any, ...]
    batch: tuple[Any, ...]


def numbers_of(step: TrainingStep) -> Numbers:
    """A copy of them."""
    return Numbers(_settings(step), tuple(step.optimizer_numbers()), tuple(compat.non_tensors(step.batch)))


def _settings(step: TrainingStep) -> tuple[Mapping[str, Any], ...]:
    groups = step.optimizer.param_groups
    return tuple({name: value for name, value in group.items() if name != "params"} for group in groups)


def check_settings(step: TrainingStep) -> None:
    """
    Raises:
        TraceError: a setting of the optimizer is a tensor.
    """
    for group in _settings(step):
        for name, value in group.items():
            if isinstance(value, Tensor):
                raise TraceError(f"the optimizer's {name} is a tensor; a graph takes it as a number")


def check_numbers(traced: Numbers, now: Numbers) -> None:
    """
    Raises:
        TraceError: a number is not the one that is part of the graph.
    """
    if len(traced.settings) != len(now.settings):
        raise TraceError(
            f"the optimizer had {len(traced.settings)} parameter groups when traced and has {len(now.settings)} now; "
            "trace it again"
        )
    for before, after in zip(traced.settings, now.settings, strict=True):
        for name, value in before.items():
            if after.get(name) != value:
                raise TraceError(
                    f"the optimizer's {name} was {value} when the step was traced and is {after.get(name)} now; trace "
                    "it again"
                )
    parts = {"the optimizer's state": (traced.state, now.state), "the batch": (traced.batch, now.batch)}
    for what, (was, is_now) in parts.items():
        if was != is_now:
            raise TraceError(f"{what}: numbers were {list(was)} when traced and are {list(is_now)} now; trace it again")


class Places(NamedTuple):
    """Where the tensors of a step lie.

    Attributes:
        tensors: the step's, alive so that no other takes their place.
        storages: their keys.
    """

    tensors: Sequence[Tensor]
    storages: Sequence[int]


def places_of(step: TrainingStep) -> Places:
    """Of all tensors that a step reads from outside."""
    tensors = step.tensors()
    return Places(tensors, [compat.storage_key(tensor) for tensor in tensors])


def check_stays(before: Places, numbers: Numbers, step: TrainingStep) -> None:
    """Refuses a step that replaces what it should change in place: the graph would never see the new one.

    Raises:
        TraceError: a tensor was replaced, or a Python number of the optimizer changed.
    """
    now = places_of(step)
    names = step.names()
    same = len(now.tensors) == len(before.tensors) and all(
        a is b and x == y for a, b, x, y in zip(before.tensors, now.tensors, before.storages, now.storages, strict=True)
    )
    if not same:
        pairs = zip(names, before.tensors, now.tensors, before.storages, now.storages, strict=False)
        name = next((name for name, a, b, x, y in pairs if a is not b or x != y), "its state")
        raise TraceError(f"the step replaces {name} by another tensor; change it in place (copy_, mul_, add_)")
    if tuple(step.optimizer_numbers()) != numbers.state:
        raise TraceError(
            f"{type(step.optimizer).__name__} counts in Python numbers, which a graph cannot; keep them in tensors"
        )


def check_gradients(step: TrainingStep) -> None:
    """
    Raises:
        TraceError: a parameter has a gradient that the optimizer never clears.
    """
    optimized = {id(parameter) for group in step.optimizer.param_groups for parameter in group["params"]}
    for name, weight in zip(step.names(), step.parameters(), strict=False):
        if weight.grad is not None and id(weight) not in optimized:
            raise TraceError(
                f"{name} gets a gradient and is not the optimizer's, so its gradients add up; freeze it with "
                "requires_grad_(False), or hand it to the optimizer"
            )

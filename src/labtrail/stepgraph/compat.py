"""The platform's module for unstable APIs of torch; tests/unit/profiler/test_compat.py has a canary for each.

``export`` names two more, torch's own places for plans; ``projects.profiler.partitioner`` those of its partitioner.
"""

import copy
import gc
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx import Graph
from torch.fx import Node as FxNode
from torch.fx._lazy_graph_module import _use_lazy_graph_module
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only, tree_structure

DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
SHAPE_DEPENDENT = DynamicOutputShapeException
# Operators that only tell a profiler where it is.
MARKERS = {
    torch.ops.profiler._record_function_enter_new.default,
    torch.ops.profiler._record_function_exit._RecordFunction,
}

__all__ = ["DATA_DEPENDENT", "StorageWeakRef", "TorchDispatchMode"]


def fake_mode() -> FakeTensorMode:
    """A mode in which tensors have shapes, dtypes and storages, and no memory."""
    return FakeTensorMode()


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor has no memory behind it."""
    return isinstance(tensor, FakeTensor)


def mode_of(tensor: Tensor) -> FakeTensorMode:
    """The mode that a fake tensor was made in."""
    assert isinstance(tensor, FakeTensor)
    return tensor.fake_mode


def fake_copy(value: Any, mode: FakeTensorMode) -> Any:
    """A deep copy whose tensors are fake; what was one object (a tied weight) stays one."""
    with FakeCopyMode(mode):
        return copy.deepcopy(value)


def fake_of_meta(model: nn.Module, mode: FakeTensorMode, device: torch.device) -> nn.Module:
    """Replaces the meta parameters and buffers of a model by fake ones on a device, in place; ties stay."""
    made: dict[Tensor, Any] = {}

    def fake(tensor: Tensor) -> Any:
        if tensor not in made:
            empty = _fake_like(tensor, mode, device)
            made[tensor] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        return made[tensor]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                tensors[name] = None if value is None else fake(value)
    return model


def forget_numbers(tensors: Sequence[Tensor]) -> None:
    """Makes fake tensors unknown: one that was made from a number would otherwise answer item(), once and for all."""
    for tensor in tensors:
        assert isinstance(tensor, FakeTensor)
        tensor.constant = None


def fake_batch(batch: Any, mode: FakeTensorMode, device: torch.device) -> Any:
    """The same nested value with fake tensors on a device."""
    return tree_map_only(Tensor, lambda tensor: _fake_like(tensor, mode, device), batch)


def fresh_fake(fake: Tensor) -> Tensor:
    """A fake tensor like another, in a storage of its own, in the same mode."""
    return _fake_like(fake, mode_of(fake), fake.device)


def _fake_like(tensor: Tensor, mode: FakeTensorMode, device: torch.device) -> Tensor:
    with mode:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def leaves(value: Any) -> list[Tensor]:
    """The tensors of nested lists, tuples and mappings, in a fixed order."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def structure(value: Any) -> str:
    """How a nested value is built, its tensors left out; equal texts have their leaves in the same places."""
    return str(tree_structure(value))


def non_tensors(value: Any) -> list[Any]:
    """What is not a tensor in a nested value, in the same order."""
    return [leaf for leaf in tree_leaves(value) if not isinstance(leaf, Tensor)]


def to_device(value: Any, device: torch.device) -> Any:
    """The same nested value with its tensors on a device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


class Calls(NamedTuple):
    """What was called while tracing.

    Attributes:
        graph: the FX graph; the fake value of a node is in ``meta["val"]``.
        constants: attribute name -> what the traced function found outside: tensors made from numbers, generators.
    """

    graph: Graph
    constants: dict[str, Any]


def trace_calls(function: Callable[..., Any], tensors: Sequence[Tensor], mode: FakeTensorMode) -> Calls:
    """Every operator that ``function`` calls on and beside fake ``tensors``, below autograd, in order."""
    # Lazily: the module's source is never needed, and for operators such as random_.from FX writes none that compiles.
    with mode, _use_lazy_graph_module(True):
        module = make_fx(function, tracing_mode="real")(*tensors)
    constants = {
        str(node.target): getattr(module, str(node.target)) for node in module.graph.nodes if node.op == "get_attr"
    }
    return Calls(module.graph, constants)


def fresh_nodes(key: str) -> Iterator[FxNode]:
    """The latest nodes of the graph being traced, newest first, up to one that has ``key`` in its meta."""
    mode = get_proxy_mode()
    assert mode is not None
    for node in reversed(mode.tracer.graph.nodes):
        if key in node.meta:
            return
        yield node


@contextmanager
def module_hooks(enter: Callable[[nn.Module], None], leave: Callable[[nn.Module], None]) -> Generator[None]:
    """Calls both around the forward pass of every module; no module has a hook of its own from it.

    Some modules take other paths where they have hooks.
    """
    first = register_module_forward_pre_hook(lambda module, _: enter(module))
    last = register_module_forward_hook(lambda module, *_: leave(module), always_call=True)
    try:
        yield
    finally:
        first.remove()
        last.remove()


def begins_backward(frame: FrameType | None) -> bool:
    """Whether the call comes from backward() before its engine starts: the gradient of the loss itself."""
    for _ in range(12):
        if frame is None:
            return False
        if frame.f_code.co_name == "_make_grads":
            return True
        frame = frame.f_back
    return False


def in_backward() -> bool:
    """Whether the autograd engine is running on this thread."""
    return torch._C._current_graph_task_id() != -1


def sequence_number() -> int:
    """What connects a forward operator with its backward node: autograd numbers its nodes as they are made."""
    if in_backward():
        node = torch._C._current_autograd_node()
        return -1 if node is None else node._sequence_nr()
    return torch.autograd._get_sequence_nr() - 1


def draws(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call takes random numbers; attention does only where it drops something."""
    if torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
        return False
    names = [argument.name for argument in target._schema.arguments]
    if "dropout_p" not in names:
        return True
    place = names.index("dropout_p")
    return bool(args[place] if place < len(args) else kwargs.get("dropout_p", 0.0))


def storage_key(tensor: Tensor) -> int:
    """Equal for two living tensors exactly if they share memory."""
    return tensor.untyped_storage()._cdata


class MemoryEvent(NamedTuple):
    """One call of an allocator.

    Attributes:
        time_ns: on the profiler's clock.
        bytes: negative where memory was freed.
    """

    time_ns: int
    bytes: int


def memory_events(function: Callable[[], Any]) -> list[MemoryEvent]:
    """What the CPU allocator was asked for while ``function`` ran, in order; no garbage is collected meanwhile."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        events = _profiled(function)
    finally:
        if collecting:
            gc.enable()
    calls = [
        MemoryEvent(event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU
    ]
    # Stable: calls within one nanosecond stay in their order.
    return sorted(calls, key=lambda call: call.time_ns)


def _profiled(function: Callable[[], Any]) -> Sequence[Any]:
    # Otherwise Kineto tells on stderr that it starts and stops.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with warnings.catch_warnings():
        # Kineto speaks of accelerators that are not there.
        warnings.simplefilter("ignore")
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            function()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    return profiler.profiler.kineto_results.events()


def bytes_of(tensor: Tensor) -> Tensor:
    """The whole storage of a tensor as bytes, uint8 (n,), sharing its memory."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())

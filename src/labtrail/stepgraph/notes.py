"""Watches a step while it is traced: by whom, for which module and from which line every operator is called."""

import sys
from contextlib import ExitStack
from types import FrameType
from typing import Any, NamedTuple

from torch import fx, nn

from labtrail.stepgraph import compat, failure

_NOTE = "labtrail_note"


class Note(NamedTuple):
    """Where an operator call belongs.

    Attributes:
        backward: whether autograd called it.
        module: qualified name of the module whose forward called it, or whose gradient it computes.
        source: ``file.py:12``, the innermost line outside torch; empty in the backward pass.
    """

    backward: bool
    module: str
    source: str


_OUTSIDE = Note(backward=False, module="", source="")


class Notes(compat.TorchDispatchMode):
    """Notes every operator call at its nodes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._modules: list[str] = [""]
        self._of_sequence: dict[int, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Notes":
        self._stack.enter_context(compat.module_hooks(self._enter, self._leave))
        super().__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        self._stack.close()

    def _enter(self, module: nn.Module) -> None:
        self._modules.append(self._names.get(id(module), self._modules[-1]))

    def _leave(self, _module: nn.Module) -> None:
        self._modules.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if compat.in_backward() and compat.draws(func, args, kwargs or {}):
            failure.refuse_repeated_randomness(sys._getframe(1))
        note = self._note()
        result = func(*args, **(kwargs or {}))
        for node in compat.fresh_nodes(_NOTE):
            node.meta[_NOTE] = note
        return result

    def _note(self) -> Note:
        number = compat.sequence_number()
        if compat.in_backward():
            return Note(True, self._of_sequence.get(number, ""), "")
        module, frame = self._modules[-1], sys._getframe(2)
        if compat.begins_backward(frame):
            return Note(True, "", "")
        # Operators without a backward node come with the number of the one before.
        self._of_sequence.setdefault(number, module)
        return Note(False, module, _source(frame))


def _source(frame: FrameType | None) -> str:
    while frame is not None and not failure.is_users(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""


def note_of(node: fx.Node) -> Note:
    """What was noted at a node; placeholders and constants belong to the forward pass and come from nowhere."""
    return node.meta.get(_NOTE, _OUTSIDE) if node.op == "call_function" else _OUTSIDE

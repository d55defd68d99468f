"""From a training step to one graph of operators, traced on fake tensors: no memory, no arithmetic.

Why: docs/decisions/023-tracing-on-a-fake-copy.md
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from labtrail.stepgraph import compat, failure
from labtrail.stepgraph.assemble import Call, assemble
from labtrail.stepgraph.guards import (
    Numbers,
    check_gradients,
    check_numbers,
    check_settings,
    check_stays,
    numbers_of,
    places_of,
)
from labtrail.stepgraph.ir import Role, StepGraph
from labtrail.stepgraph.notes import Notes
from labtrail.stepgraph.step import TraceError, TrainingStep


@dataclass(frozen=True)
class TracedStep:
    """A training step as one graph.

    Attributes:
        graph: what is analysed.
        calls: what is run, by node id.
        fakes: the fake value of every node; of the placeholders in order: parameters, buffers, optimizer state, batch,
            constants.
        constants: the tensors behind the last placeholders, which tracing found inside the step.
        trained: indices into the parameters of those that get a gradient.
        numbers: what is part of the graph and no tensor: the optimizer's learning rate and the like.
    """

    graph: StepGraph
    calls: tuple[Call, ...]
    fakes: tuple[Any, ...]
    constants: tuple[Tensor, ...]
    trained: tuple[int, ...]
    numbers: Numbers

    def inputs(self, step: TrainingStep) -> list[Tensor]:
        """The values of the placeholders: a step's tensors, if they are like those that were traced.

        Raises:
            TraceError: another number of tensors, another shape, type or device, or another number in the optimizer or
                the batch.
        """
        check_numbers(self.numbers, numbers_of(step))
        tensors = [*step.tensors(), *self.constants]
        placeholders = self.fakes[: self.graph.first_call]
        if len(tensors) != len(placeholders):
            raise TraceError(
                f"the traced step takes {len(placeholders)} tensors, {len(tensors)} are given; an optimizer has its "
                "state after its first step only"
            )
        for index, (source, fake) in enumerate(zip(tensors, placeholders, strict=True)):
            if source.shape != fake.shape or source.dtype != fake.dtype or source.device != fake.device:
                raise TraceError(
                    f"tensor {index} of the step: traced as {_described(fake)}, "
                    f"given {_described(source)}; trace it again"
                )
        # Detached they share memory, and autograd has nothing to record.
        return [tensor.detach() for tensor in tensors]


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def trace(step: TrainingStep) -> TracedStep:
    """The graph of one update.

    A step on real tensors is copied first and stays as it is; one on fake tensors is used up. An optimizer that has
    not stepped yet is traced as it is from its second step on.

    Args:
        step: real or fake; with fake tensors nothing of its size is ever allocated.

    Raises:
        TraceError: the step cannot be one graph; names the line and the remedy.
    """
    mode, copied = _fake(step)
    check_settings(copied)
    _warm(copied, mode)
    before, numbers = places_of(copied), numbers_of(copied)
    compat.forget_numbers(before.tensors)
    trained: list[int] = []

    def traced(*_tensors: Tensor) -> list[Tensor]:
        with Notes(copied.model):
            loss, gradients = _take(copied)
        trained.extend(index for index, gradient in enumerate(gradients) if gradient is not None)
        return [loss, *(gradient for gradient in gradients if gradient is not None)]

    with failure.explained():
        calls = compat.trace_calls(traced, before.tensors, mode)
        check_gradients(copied)
        check_stays(before, numbers, copied)
        if not trained:
            raise TraceError("no parameter has a gradient when the step ends; does it call backward()?")
        _check_constants(calls.constants)
        return TracedStep(*assemble(calls, _roles(copied)), tuple(trained), numbers)


def _take(step: TrainingStep) -> tuple[Tensor, list[Tensor | None]]:
    """(loss, gradients as the optimizer finds them, or as they are in the end if it takes none)."""
    gradients: list[list[Tensor | None]] = []
    handle = step.optimizer.register_step_pre_hook(lambda *_: gradients.append(step.gradients()))
    try:
        loss = step.take()
    finally:
        handle.remove()
    if not isinstance(loss, Tensor):
        raise TraceError(f"the step returns a {type(loss).__name__}; it has to return its loss, a tensor")
    return loss, gradients[-1] if gradients else step.gradients()


def _check_constants(constants: Mapping[str, Any]) -> None:
    """Everything a step meets has to be known before: a fake tensor among the constants belongs to nobody."""
    for value in constants.values():
        if isinstance(value, Tensor) and compat.is_fake(value):
            raise TraceError(
                f"a tensor {tuple(value.shape)} takes part that is neither parameter nor buffer nor state of the "
                "optimizer, nor in the batch (an attribute of a module? a batch of a class of its own?); register it "
                "as a buffer, or hand the batch over as a dict or tuple of tensors"
            )


def _fake(step: TrainingStep) -> tuple[Any, TrainingStep]:
    """(mode, the same step on fake tensors without gradients)."""
    first = next(iter(step.parameters()), None)
    if first is None:
        raise TraceError("the optimizer has no parameters; hand it model.parameters()")
    if compat.is_fake(first):
        mode, copied = compat.mode_of(first), step
    else:
        mode = compat.fake_mode()
        with failure.explained():
            # An optimizer leaves attributes of its own out when it is copied.
            fields = {name: value for name, value in vars(step.optimizer).items() if not name.startswith("_")}
            model, optimizer, batch, fields = compat.fake_copy((step.model, step.optimizer, step.batch, fields), mode)
            vars(optimizer).update(fields)
        copied = TrainingStep(model, optimizer, batch, step.run)
    copied.clear()
    return mode, copied


def _warm(step: TrainingStep, mode: Any) -> None:
    """Gives the fake optimizer the state that it has after a first step."""
    if step.optimizer.state:
        return
    with mode, failure.explained():
        step.take()
    check_gradients(step)
    step.clear()


def _roles(step: TrainingStep) -> list[Role]:
    """Of the placeholders, by position."""
    return [
        *[Role.PARAMETER] * len(step.parameters()),
        *[Role.BUFFER] * len(step.buffers()),
        *[Role.OPTIMIZER_STATE] * len(step.optimizer_state()),
        *[Role.INPUT] * len(compat.leaves(step.batch)),
    ]

"""From a training step to one graph of operators, traced on fake tensors: no memory, no arithmetic."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from projects.profiler import compat, failure
from projects.profiler.assemble import Call, assemble
from projects.profiler.ir import Role, StepGraph
from projects.profiler.notes import Notes
from projects.profiler.step import TraceError, TrainingStep


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
        settings: of the optimizer; its learning rate and the like are part of the graph.
    """

    graph: StepGraph
    calls: tuple[Call, ...]
    fakes: tuple[Any, ...]
    constants: tuple[Tensor, ...]
    trained: tuple[int, ...]
    settings: tuple[dict[str, Any], ...]

    def inputs(self, step: TrainingStep) -> list[Tensor]:
        """The values of the placeholders: a step's tensors, if they are like those that were traced.

        Raises:
            TraceError: another number of tensors, another shape, type or device, or other optimizer settings.
        """
        for traced, now in zip(self.settings, _settings(step), strict=True):
            for name, value in now.items():
                if value != traced[name]:
                    raise TraceError(
                        f"the optimizer's {name} was {traced[name]} when the step was traced and is {value} now; trace "
                        "it again"
                    )
        given = [*step.tensors(), *self.constants]
        placeholders = self.fakes[: self.graph.first_call]
        if len(given) != len(placeholders):
            raise TraceError(
                f"the traced step takes {len(placeholders)} tensors, {len(given)} are given; an optimizer has its "
                "state after its first step only"
            )
        for index, (one, fake) in enumerate(zip(given, placeholders, strict=True)):
            if one.shape != fake.shape or one.dtype != fake.dtype or one.device != fake.device:
                raise TraceError(
                    f"tensor {index} of the step: traced as {_described(fake)}, given {_described(one)}; trace it again"
                )
        return given


def _settings(step: TrainingStep) -> tuple[dict[str, Any], ...]:
    groups = step.optimizer.param_groups
    return tuple({name: value for name, value in group.items() if name != "params"} for group in groups)


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def trace(step: TrainingStep) -> TracedStep:
    """The graph of one update; neither the step's model nor its optimizer is touched.

    An optimizer that has not stepped yet is traced as it is from its second step on.

    Args:
        step: real or fake; with fake tensors nothing of its size is ever allocated.

    Raises:
        TraceError: the step cannot be one graph; names the line and the remedy.
    """
    mode, copied = _fake(step)
    _warm(copied, mode)
    tensors = copied.tensors()
    compat.forget_numbers(tensors)
    roles = _roles(copied)
    notes = Notes(copied.model)
    trained: list[int] = []

    def traced(*_tensors: Tensor) -> list[Tensor]:
        with notes:
            loss = copied.take()
        gradients = copied.gradients()
        trained.extend(index for index, one in enumerate(gradients) if one is not None)
        return [loss, *(one for one in gradients if one is not None)]

    with failure.explained():
        calls = compat.trace_calls(traced, tensors, mode)
    if not trained:
        raise TraceError("no parameter has a gradient after the step; does it call backward()?")
    return TracedStep(*assemble(calls, roles), tuple(trained), _settings(step))


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
            model, optimizer, batch = compat.fake_copy((step.model, step.optimizer, step.batch), mode)
        copied = TrainingStep(model, optimizer, batch, step.run)
    copied.optimizer.zero_grad()
    return mode, copied


def _warm(step: TrainingStep, mode: Any) -> None:
    """Gives the fake optimizer the state that it has after a first step."""
    if step.optimizer.state:
        return
    with mode, failure.explained():
        step.take()
        step.optimizer.zero_grad()


def _roles(step: TrainingStep) -> list[Role]:
    """Of the placeholders, by position."""
    return [
        *[Role.PARAMETER] * len(step.parameters()),
        *[Role.BUFFER] * len(step.buffers()),
        *[Role.OPTIMIZER_STATE] * len(step.optimizer_state()),
        *[Role.INPUT] * len(compat.leaves(step.batch)),
    ]

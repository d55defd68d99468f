"""A training step before it is traced: what is trained, on what, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from labtrail.errors import LabtrailError
from labtrail.stepgraph.compat import leaves


class TraceError(LabtrailError):
    """A training step that cannot be one graph: says which line, and what to write instead."""


@dataclass(frozen=True)
class TrainingStep:
    """One update of a model's weights.

    Attributes:
        model: any module.
        optimizer: of its parameters.
        batch: tensors, in nested tuples, lists or mappings.
        run: performs forward pass, backward pass and update on (model, optimizer, batch), returns the loss, 0-d.
    """

    model: nn.Module
    optimizer: Optimizer
    batch: Any
    run: Callable[[nn.Module, Optimizer, Any], Tensor]

    def take(self) -> Tensor:
        """Runs it once, eagerly; returns the loss."""
        return self.run(self.model, self.optimizer, self.batch)

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of model and optimizer, each once: those of the model first."""
        groups = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return list({id(parameter): parameter for parameter in [*self.model.parameters(), *groups]}.values())

    def buffers(self) -> list[Tensor]:
        """The buffers of the model, each once."""
        return list(self.model.buffers())

    def optimizer_state(self) -> list[Tensor]:
        """The tensors of the optimizer's state, in the order of parameters and of names."""
        return [value for _, value in self._state() if isinstance(value, Tensor)]

    def optimizer_numbers(self) -> list[Any]:
        """What else is in that state, in the same order."""
        return [value for _, value in self._state() if not isinstance(value, Tensor)]

    def _state(self) -> list[tuple[str, Any]]:
        known = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [
            (f"{name} of {known.get(id(parameter), 'a parameter')} in the optimizer", value)
            for parameter in self.parameters()
            for name, value in sorted(self.optimizer.state.get(parameter, {}).items())
        ]

    def names(self) -> list[str]:
        """Of ``tensors()``, for messages."""
        known = {id(parameter): f"parameter {name}" for name, parameter in self.model.named_parameters()}
        known |= {id(buffer): f"buffer {name}" for name, buffer in self.model.named_buffers()}
        names = [
            known.get(id(tensor), "a parameter of the optimizer") for tensor in [*self.parameters(), *self.buffers()]
        ]
        state = [name for name, value in self._state() if isinstance(value, Tensor)]
        return [*names, *state, *(f"tensor {index} of the batch" for index in range(len(leaves(self.batch))))]

    def clear(self) -> None:
        """Sets all gradients to None."""
        for parameter in self.parameters():
            parameter.grad = None

    def tensors(self) -> list[Tensor]:
        """Everything that a step reads from outside: parameters, buffers, optimizer state, batch."""
        return [*self.parameters(), *self.buffers(), *self.optimizer_state(), *leaves(self.batch)]

    def gradients(self) -> list[Tensor | None]:
        """Of ``parameters()``, in their order; None where a parameter has none."""
        return [parameter.grad for parameter in self.parameters()]


def plain_step(
    loss: Callable[[nn.Module, Any], Tensor], clip_norm: float | None = None
) -> Callable[[nn.Module, Optimizer, Any], Tensor]:
    """The usual step around a loss: gradients set to None, forward, backward, clipping if wanted, update.

    Args:
        loss: (model, batch) to the mean loss, 0-d.
        clip_norm: largest norm of the gradient; None: not clipped.
    """

    def run(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, batch)
        _check_loss(value)
        value.backward()
        if clip_norm is not None:
            clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        return value.detach()

    return run


def _check_loss(loss: Tensor) -> None:
    if loss.numel() != 1:
        raise TraceError(f"the loss has shape {tuple(loss.shape)}; a step needs one number: take its mean")
    if not loss.requires_grad:
        raise TraceError(
            "the loss has no gradient: no parameter that requires one takes part in it; look for detach(), no_grad() "
            "or requires_grad_(False)"
        )

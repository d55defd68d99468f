"""Example: what one training step of a task consists of, for tools that look into steps."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class Example(NamedTuple):
    """A model and a made-up batch, as the task's training loop would have them.

    Attributes:
        model: with random weights, in training mode.
        batch: tensors of the right shapes and types in nested tuples, lists or mappings; their values mean nothing.
        loss: (model, batch) to the mean loss, 0-d.
    """

    model: "nn.Module"
    batch: Any
    loss: "Callable[[nn.Module, Any], Tensor]"

"""Random numbers a second time: a generator's state is remembered before a draw and put back for its repetition."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def generator_of(device: torch.device, generator: torch.Generator | None) -> torch.Generator:
    """The generator that an operator on a device draws from."""
    if generator is not None:
        return generator
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index if device.index is not None else torch.cuda.current_device()]
    return torch.default_generator


def remember(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """The state before a draw, uint8, on the CPU."""
    return generator_of(device, generator).get_state()


def repeat(
    draw: Callable[..., Any], device: torch.device, asked_generator: torch.Generator | None
) -> Callable[..., Any]:
    """The same draw from a remembered state, its first argument; afterwards the generator is where it was."""

    def drawn(state: Tensor, *args: Any, **kwargs: Any) -> Any:
        generator = generator_of(device, asked_generator)
        now = generator.get_state()
        generator.set_state(state)
        try:
            return draw(*args, **kwargs)
        finally:
            generator.set_state(now)

    drawn.__name__ = "repeat"
    return drawn

"""One update of a network: gradients of its batches, by autograd or under a plan, clipped, and a step of the optimizer.

Why: docs/decisions/029-figures-leave-by-the-graph.md
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from labtrail.config import Remat
from labtrail.running.remat import LeanBackward, is_planned

Figures = dict[str, Tensor]
# (model, batch) to the loss, 0-d, and what else is worth knowing about the batch, scalars by name.
LossWithFigures = Callable[[nn.Module, Any], tuple[Tensor, Mapping[str, Tensor]]]


class Updater:
    """Takes training steps; the same to the bit whether or not activations are computed again to save memory.

    What a loss returns beside its value (accuracies, terms of a sum) stays on the device: reading a number after
    every batch would wait for the device after every batch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: LossWithFigures,
        accelerator: Accelerator,
        *,
        remat: Remat | None = None,
        clip_norm: float | None = None,
    ) -> None:
        """
        Args:
            model: as ``accelerator.prepare`` returned it, or a module of it.
            optimizer: of the model's parameters.
            loss: called under the accelerator's autocast; under a plan all that changes between batches has to be in
                the batch, which is tensors in nested tuples, lists or mappings.
            accelerator: of the run.
            remat: how much memory forward and backward pass may take; None: no plan.
            clip_norm: largest norm of the gradient of an update; None: not clipped.

        Raises:
            ConfigError: a plan under mixed precision or with several processes.
        """
        self._model, self._optimizer, self._loss = model, optimizer, loss
        self._accelerator, self._clip_norm = accelerator, clip_norm
        self._planned: _Planned | None = None
        if remat is not None and is_planned(remat, accelerator):
            assert remat.memory is not None
            self._planned = _Planned(accelerator.unwrap_model(model), loss, remat.memory)

    @property
    def planned(self) -> bool:
        """Whether gradients come from a plan, so that a loss is one graph and cannot take gradients itself."""
        return self._planned is not None

    @property
    def skipped(self) -> bool:
        """Whether the loss scaler left out the last step, since a gradient was not finite."""
        return bool(getattr(self._optimizer, "step_was_skipped", False))

    def __call__(self, batches: Sequence[Any], rate: float) -> list[Figures]:
        """One step of the optimizer along the sum of the gradients of some batches; gradients are None afterwards.

        Args:
            batches: at least one; a loss that is to be the mean over all of them weighs its own.
            rate: learning rate of all groups of the optimizer.

        Returns:
            The figures of each batch, detached; under a plan float32.

        Raises:
            InfeasibleError, TraceError: as ``LeanBackward``.
            ValueError: a figure is not a scalar; under a plan a TraceError, also where its name is new.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        last = len(batches) - 1
        figures = [self._backward(batch, sync=index == last) for index, batch in enumerate(batches)]
        if self._clip_norm is not None:
            self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return figures

    def _backward(self, batch: Any, sync: bool) -> Figures:
        if self._planned is not None:
            return self._planned.figures_of(batch)
        # Ranks exchange their gradients once an update, with the last batch.
        exchange: AbstractContextManager[None] = nullcontext() if sync else self._accelerator.no_sync(self._model)
        with exchange:
            with self._accelerator.autocast():
                loss, figures = self._loss(self._model, batch)
            self._accelerator.backward(loss)
        return _detached(figures)


class _Planned(LeanBackward):
    """A lean backward pass whose graph has the figures for its output."""

    def __init__(self, model: nn.Module, loss: LossWithFigures, memory: float) -> None:
        super().__init__(model, lambda network, batch: loss(network, batch)[0], memory)
        self._with_figures = loss
        self._names: tuple[str, ...] | None = None

    def figures_of(self, batch: Any) -> Figures:
        values = self(batch)
        assert self._names is not None
        return dict(zip(self._names, values, strict=True))

    def _run(self, model: nn.Module, _optimizer: Optimizer, batch: Any) -> Tensor:
        loss, figures = self._with_figures(model, batch)
        loss.backward()
        if self._names not in (None, tuple(figures)):
            raise ValueError(f"the loss returns the figures {', '.join(figures)} after {', '.join(self._names or ())}")
        self._names = tuple(figures)
        return torch.stack([value.float() for value in _detached(figures).values()])


def _detached(figures: Mapping[str, Tensor]) -> Figures:
    for name, value in figures.items():
        if value.dim():
            raise ValueError(
                f"figure {name} has shape {tuple(value.shape)}; a figure is a scalar: take its mean or sum"
            )
    return {name: value.detach() for name, value in figures.items()}

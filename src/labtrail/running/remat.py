"""Training in less memory: loss and gradients of a batch by a planned step, the same to the bit as by autograd.

Why: docs/decisions/029-figures-leave-by-the-graph.md
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from labtrail.config import Remat
from labtrail.errors import ConfigError
from labtrail.running.launch import require_one_process
from labtrail.stepgraph.compat import leaves, non_tensors, structure
from labtrail.stepgraph.costs import costs_of, peak_of_graph, target_bytes
from labtrail.stepgraph.inplace import in_place
from labtrail.stepgraph.plan import Planner
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.rewrite import rewrite
from labtrail.stepgraph.roofline import MACHINES, roofline
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import TracedStep, trace

Loss = Callable[[nn.Module, Any], Tensor]
_log = logging.getLogger("labtrail")
# Shapes of a batch whose programs are kept.
_SHAPES = 64
_SOLVE_S = 5.0
# Plans depend little on the machine; what counts is that arithmetic is dearer than traffic.
_MACHINE = MACHINES["a100"]


class _Planned(NamedTuple):
    traced: TracedStep
    program: Program


class LeanBackward:
    """Computes a loss and adds its gradients to the parameters, with chosen activations computed again.

    Batches of another shape are traced and planned when they first come, as is a model in another mode or with other
    parameters frozen; numbers that the model keeps in Python must not change. A loss that has more to tell than its
    value copies it into a tensor of its batch: that is part of the step. The memory asked for holds where parameters
    have no gradients yet; otherwise those of the batch exist beside them until they are added.
    """

    def __init__(self, model: nn.Module, loss: Loss, memory: float) -> None:
        """
        Args:
            model: what is trained.
            loss: (model, batch) to the loss, 0-d; all that changes between batches is in the batch.
            memory: up to 1 the share of the peak of forward and backward pass that may be needed, above 1 bytes.
        """
        self._model, self._loss, self._memory = model, loss, memory
        # Only tells which parameters there are; it has no state and never steps.
        self._optimizer = SGD(model.parameters())
        self._planned: OrderedDict[Hashable, _Planned] = OrderedDict()

    def __call__(self, batch: Any) -> Tensor:
        """The loss, detached; parameters have their gradients.

        Args:
            batch: tensors in nested tuples, lists or mappings.

        Raises:
            InfeasibleError: no plan reaches the memory; says what the least is.
            TraceError: the loss cannot be one graph, or is no longer what was traced; names the line or the number.
        """
        step = TrainingStep(self._model, self._optimizer, batch, self._run)
        planned = self._of_shape(step)
        loss, *gradients = planned.program.run(planned.traced.inputs(step))
        parameters = step.parameters()
        for index, gradient in zip(planned.traced.trained, gradients, strict=True):
            parameter = parameters[index]
            parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return loss

    def _run(self, model: nn.Module, _optimizer: Optimizer, batch: Any) -> Tensor:
        value = self._loss(model, batch)
        value.backward()
        return value.detach()

    def _of_shape(self, step: TrainingStep) -> _Planned:
        shapes = tuple((tuple(leaf.shape), leaf.stride(), leaf.dtype) for leaf in leaves(step.batch))
        modes = tuple(module.training for module in self._model.modules())
        frozen = tuple(not parameter.requires_grad for parameter in self._model.parameters())
        key = (shapes, structure(step.batch), repr(non_tensors(step.batch)), modes, frozen)
        if key not in self._planned:
            self._planned[key] = self._plan(step)
            if len(self._planned) > _SHAPES:
                self._planned.popitem(last=False)
        self._planned.move_to_end(key)
        return self._planned[key]

    def _plan(self, step: TrainingStep) -> _Planned:
        parameters = step.parameters()
        kept = [parameter.grad for parameter in parameters]
        step.clear()
        try:
            original = trace(step)
        finally:
            for leaf, gradient in zip(parameters, kept, strict=True):
                leaf.grad = gradient
        traced = in_place(original)
        times = roofline(traced, _MACHINE)
        costs = costs_of(traced, times)
        base = peak_of_graph(original, costs_of(original, times))
        plan = Planner(traced.graph, costs, base).solve(target_bytes(self._memory, base), _SOLVE_S)
        _log.info(
            "remat: forward and backward pass of a batch take %s bytes instead of %s, for %.1f %% more time by a "
            "roofline; %s activations are computed again",
            f"{plan.peak_bytes:,}",
            f"{base:,}",
            100 * plan.extra_time_s / max(float(times.sum()), 1e-30),
            len(plan.dropped),
        )
        lean = rewrite(traced, plan.dropped).step
        return _Planned(lean, Program(lean))


def is_planned(config: Remat, accelerator: Accelerator) -> bool:
    """Whether a run is to train by a plan.

    Raises:
        ConfigError: it is, under mixed precision or with several processes.
    """
    if config.memory is None:
        return False
    require_one_process(accelerator, "remat.memory")
    if accelerator.mixed_precision != "no":
        raise ConfigError([f"remat.memory: compute.precision is {accelerator.mixed_precision}; only 'no' is supported"])
    return True


def lean_backward(model: nn.Module, loss: Loss, config: Remat, accelerator: Accelerator) -> LeanBackward | None:
    """What a training loop of its own computes gradients by if its config asks for a plan; ``Updater`` does it itself.

    Raises:
        ConfigError: mixed precision or several processes.
    """
    if not is_planned(config, accelerator):
        return None
    assert config.memory is not None
    return LeanBackward(accelerator.unwrap_model(model), loss, config.memory)

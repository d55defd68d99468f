"""What plans of a traced step are judged by, and what they are asked for."""

import numpy as np
import torch
from torch import Tensor

from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.memory import granularity
from labtrail.stepgraph.replay import generator_of
from labtrail.stepgraph.simulate import Costs
from labtrail.stepgraph.trace import TracedStep
from labtrail.stepgraph.workspace import workspaces


def costs_of(traced: TracedStep, times: np.ndarray, workspace: np.ndarray | None = None) -> Costs:
    """Costs with these seconds per node, and the memory of the step's device.

    Args:
        traced: the step.
        times: seconds, float64 (nodes,).
        workspace: bytes, int64 (nodes,); None: found by running each distinct call alone.
    """
    device = device_of(traced)
    state = 0
    if any(node.random for node in traced.graph.nodes):
        state = generator_of(device, None).get_state().numel()
    workspace_bytes = workspaces(traced) if workspace is None else workspace
    return Costs(times, workspace_bytes, granularity(device), state)


def device_of(traced: TracedStep) -> torch.device:
    """Where a step runs."""
    return next(fake.device for fake in traced.fakes if isinstance(fake, Tensor))


def peak_of_graph(traced: TracedStep, costs: Costs) -> int:
    """The most bytes that a step as it is needs at once, workspace included."""
    held = liveness(traced.graph, costs.granularity).held() + costs.workspace
    return int(held[traced.graph.first_call :].max())


def target_bytes(memory: float, peak_bytes: int) -> float:
    """What ``memory`` asks for: up to 1 a share of the peak, else bytes."""
    return memory * peak_bytes if memory <= 1 else memory

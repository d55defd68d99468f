"""Training in less memory is the same training."""

import copy
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from labtrail.config import Remat
from labtrail.errors import ConfigError
from labtrail.remat import LeanBackward, lean_backward, notes
from labtrail.stepgraph.memory import peak_of
from labtrail.stepgraph.plan import InfeasibleError


class Tower(nn.Module):
    """Deep enough that its activations dominate."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32)) for _ in range(10))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.dropout(torch.relu(layer(x)), 0.1)
        return x


def loss_of(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    output = model(batch["x"])
    value = (output - batch["y"]).square().mean()
    notes({"loss": value, "mean": output.mean()}, batch["noted"])
    return value


def batch_of(size: int) -> dict[str, Tensor]:
    return {"x": torch.randn(size, 32), "y": torch.randn(size, 32), "noted": torch.zeros(2)}


def test_gradients_accumulate_and_buffers_move_as_by_autograd() -> None:
    torch.manual_seed(0)
    model = Tower()
    other = copy.deepcopy(model)
    lean = LeanBackward(model, loss_of, 0.7)
    batches = [batch_of(256), batch_of(256), batch_of(100)]
    states = []
    for network, backward in ((model, lean), (other, lambda given: loss_of(other, given).backward())):
        torch.manual_seed(1)
        for batch in batches:
            backward(batch)
        states.append([one.grad for one in network.parameters()] + list(network.buffers()) + [torch.get_rng_state()])
        states[-1] += [one["noted"].clone() for one in batches]
    assert all(torch.equal(first, second) for first, second in zip(*states, strict=True))


def test_the_peak_is_lower() -> None:
    torch.manual_seed(0)
    model, batch = Tower(), batch_of(4096)
    lean = LeanBackward(model, loss_of, 0.5)
    lean(batch)
    model.zero_grad()
    device = torch.device("cpu")
    planned = peak_of(lambda: lean(batch), 0, device)
    model.zero_grad()
    plain = peak_of(lambda: loss_of(model, batch).backward(), 0, device)
    assert planned <= 0.55 * plain


def test_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(InfeasibleError, match="the least that was found"):
        LeanBackward(Tower(), loss_of, 0.01)(batch_of(64))


def test_mixed_precision_is_refused() -> None:
    accelerator = Accelerator(cpu=True)
    assert lean_backward(Tower(), loss_of, Remat(), accelerator) is None
    assert lean_backward(Tower(), loss_of, Remat(memory=0.5), accelerator) is not None
    accelerator.state._mixed_precision = "bf16"
    try:
        with pytest.raises(ConfigError, match=r"compute.precision is bf16"):
            lean_backward(Tower(), loss_of, Remat(memory=0.5), accelerator)
    finally:
        accelerator.state._mixed_precision = "no"

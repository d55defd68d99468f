"""Training in less memory is the same training."""

import copy
import logging
import re
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from labtrail.config import Remat
from labtrail.errors import ConfigError
from labtrail.running.remat import LeanBackward, lean_backward
from labtrail.stepgraph.memory import peak_of
from labtrail.stepgraph.plan import InfeasibleError
from labtrail.stepgraph.step import TraceError


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
    with torch.no_grad():
        batch["noted"].copy_(torch.stack([value, output.mean()]))
    return value


def batch_of(size: int) -> dict[str, Tensor]:
    return {"x": torch.randn(size, 32), "y": torch.randn(size, 32), "noted": torch.zeros(2)}


def test_gradients_accumulate_and_buffers_move_as_by_autograd(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "labtrail")
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
        states.append(
            [parameter.grad for parameter in network.parameters()] + list(network.buffers()) + [torch.get_rng_state()]
        )
        states[-1] += [batch["noted"].clone() for batch in batches]
    assert all(torch.equal(first, second) for first, second in zip(*states, strict=True))
    assert re.search(r"[1-9]\d* activations are computed again", caplog.text)


def test_a_second_pass_takes_as_much_beside_the_sums_of_the_first() -> None:
    torch.manual_seed(0)
    model, batch = Tower(), batch_of(2048)
    lean, device = LeanBackward(model, loss_of, 0.5), torch.device("cpu")
    gradients = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    lean(batch)
    model.zero_grad()
    first, second = (peak_of(lambda: lean(batch), 0, device) for _ in range(2))
    assert first <= second <= first + gradients


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


def test_frozen_statistics_stay_and_are_used_again() -> None:
    torch.manual_seed(0)
    model = Tower()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    other, batch = copy.deepcopy(model), batch_of(512)
    torch.manual_seed(1)
    LeanBackward(model, loss_of, 0.6)(batch)
    torch.manual_seed(1)
    loss_of(other, batch).backward()
    pairs = zip([*model.parameters()], [*other.parameters()], strict=True)
    assert all(torch.equal(one.grad, two.grad) for one, two in pairs if one.grad is not None and two.grad is not None)


def test_a_sum_with_its_own_transpose() -> None:
    weight = nn.Linear(16, 16)
    other = copy.deepcopy(weight)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x) * 2
        return (y + y.t()).sin().sum()

    data = torch.randn(16, 16)
    LeanBackward(weight, loss, 1)(data)
    loss(other, data).backward()
    assert weight.weight.grad is not None
    assert other.weight.grad is not None
    assert torch.equal(weight.weight.grad, other.weight.grad)


def test_the_order_of_a_batch_is_no_matter() -> None:
    lean = LeanBackward(nn.Linear(4, 4), lambda model, batch: model(batch["x"]).sum() - batch["y"].sum(), 1)
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    assert torch.equal(lean({"x": x, "y": y}), lean({"y": y, "x": x}))


def test_gradients_outlive_a_batch_that_cannot_be_traced() -> None:
    model = nn.Linear(4, 4)
    lean = LeanBackward(model, lambda network, x: network(x).sum() * (1 if len(x) == 4 else x.sum().item()), 1)
    lean(torch.randn(4, 4))
    with pytest.raises(TraceError, match="item"):
        lean(torch.randn(5, 4))
    assert model.weight.grad is not None

"""A training step is the plain one, by autograd and under a plan."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD

from labtrail.config import Remat
from labtrail.errors import ConfigError
from labtrail.running.updater import Updater
from labtrail.stepgraph.step import TraceError

RATE, CLIP = 0.05, 0.5


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@contextmanager
def precision(accelerator: Accelerator, name: str) -> Generator[None]:
    """A process has one precision; for a moment another one."""
    accelerator.state._mixed_precision = name
    try:
        yield
    finally:
        accelerator.state._mixed_precision = "no"


def tower() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU()) for _ in range(8)))


def loss_of(model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    output = nn.functional.dropout(model(batch["x"]), 0.1)
    value = (output - batch["y"]).square().mean()
    return value * batch["share"], {"loss": value, "hits": (output > 0).sum()}


def updates() -> list[list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)

    def batch(size: int, share: float) -> dict[str, Tensor]:
        x, y = torch.randn(2, size, 32, generator=generator)
        return {"x": x, "y": y, "share": torch.tensor(share)}

    return [[batch(192, 0.75), batch(64, 0.25)] for _ in range(3)]


def plainly(model: nn.Module) -> list[dict[str, Tensor]]:
    """The loop as one would write it by hand."""
    optimizer, told = SGD(model.parameters(), lr=RATE, momentum=0.9), []
    for update in updates():
        for batch in update:
            loss, figures = loss_of(model, batch)
            loss.backward()
            told.append({name: value.detach() for name, value in figures.items()})
        clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return told


@pytest.mark.parametrize("memory", [None, 0.8])
def test_updates_are_those_of_a_plain_loop_to_the_bit(accelerator: Accelerator, memory: float | None) -> None:
    model, reference = tower(), tower()
    optimizer = SGD(model.parameters(), lr=1.0, momentum=0.9)
    updater = Updater(model, optimizer, loss_of, accelerator, remat=Remat(memory=memory), clip_norm=CLIP)
    assert updater.planned == (memory is not None)
    torch.manual_seed(2)
    figures = [of_batch for update in updates() for of_batch in updater(update, RATE)]
    torch.manual_seed(2)
    expected = plainly(reference)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), reference.buffers(), strict=True))
    assert [{name: float(value) for name, value in of_batch.items()} for of_batch in figures] == [
        {name: float(value) for name, value in of_batch.items()} for of_batch in expected
    ]
    assert not any(value.requires_grad for of_batch in figures for value in of_batch.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ranks_exchange_gradients_once_an_update(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[nn.Module] = []
    monkeypatch.setattr(accelerator, "no_sync", lambda model: held.append(model) or nullcontext())
    model = tower()
    Updater(model, SGD(model.parameters()), loss_of, accelerator)([*updates()[0], *updates()[1]], RATE)
    assert held == [model] * 3


def test_the_loss_is_under_autocast() -> None:
    class Half:
        """What an Accelerator of precision bf16 does here; a process can have one precision only."""

        def autocast(self) -> torch.autocast:
            return torch.autocast("cpu", torch.bfloat16)

        def backward(self, loss: Tensor) -> None:
            loss.backward()

    types = []

    def loss(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output = model(x)
        types.append(output.dtype)
        return output.float().mean(), {}

    model: nn.Module = nn.Linear(4, 4)
    assert Updater(model, SGD(model.parameters()), loss, Half())([torch.randn(2, 4)], RATE) == [{}]  # ty: ignore[invalid-argument-type]
    assert types == [torch.bfloat16]


def test_a_figure_is_a_scalar(accelerator: Accelerator) -> None:
    model = nn.Linear(4, 4)
    updater = Updater(model, SGD(model.parameters()), lambda net, x: (net(x).mean(), {"outputs": net(x)}), accelerator)
    with pytest.raises(ValueError, match=r"figure outputs has shape \(2, 4\)"):
        updater([torch.randn(2, 4)], RATE)


def test_figures_of_a_plan_keep_their_names(accelerator: Accelerator) -> None:
    def loss(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        value = model(x).square().mean()
        return value, {"loss" if len(x) == 2 else "other": value}

    model = nn.Linear(4, 4)
    updater = Updater(model, SGD(model.parameters()), loss, accelerator, remat=Remat(memory=1.0))
    updater([torch.randn(2, 4)], RATE)
    with pytest.raises(TraceError, match="the figures other after loss"):
        updater([torch.randn(3, 4)], RATE)


def test_a_plan_under_mixed_precision_is_refused(accelerator: Accelerator) -> None:
    model = tower()
    with precision(accelerator, "bf16"):
        Updater(copy.deepcopy(model), SGD(model.parameters()), loss_of, accelerator, remat=Remat())
        with pytest.raises(ConfigError, match=r"compute\.precision is bf16"):
            Updater(model, SGD(model.parameters()), loss_of, accelerator, remat=Remat(memory=0.5))

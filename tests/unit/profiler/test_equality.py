"""The traced step, run node by node, is the step: bit for bit, over several updates."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from labtrail.stepgraph.liveness import activations
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.step import TrainingStep
from labtrail.stepgraph.trace import trace
from projects.profiler.families import names
from tests.sampling import examples
from tests.unit.profiler.steps import MINIATURES, MakeOptimizer, RandomModel, miniature, random_step, step_of, twin

STEPS = 5


def generators(step: TrainingStep) -> list[torch.Generator]:
    """Random generators of its own that a step's loss closes over."""
    cells = getattr(step.run, "__closure__", None) or ()
    found = []
    for cell in cells:
        inner = getattr(cell.cell_contents, "__closure__", None) or ()
        found += [one.cell_contents for one in inner if isinstance(one.cell_contents, torch.Generator)]
    return found


def assert_same_steps(step: TrainingStep) -> None:
    """Five steps by autograd and five by the graph: loss, gradients, weights, buffers, optimizer and random state."""
    step.take()
    other = twin(step)
    traced = trace(step)
    program = Program(traced)
    states = [generator.get_state() for generator in generators(step)]
    torch.manual_seed(7)
    losses, gradients = [], []
    for _ in range(STEPS):
        losses.append(other.take())
        gradients.append([gradient.clone() for gradient in other.gradients() if gradient is not None])
    expected = torch.get_rng_state()
    for one, state in zip(generators(step), states, strict=True):
        one.set_state(state)
    torch.manual_seed(7)
    for number in range(STEPS):
        step.optimizer.zero_grad()
        loss, *found = program.run(traced.inputs(step))
        assert torch.equal(loss, losses[number])
        assert len(found) == len(gradients[number]) > 0
        assert all(torch.equal(a, b) for a, b in zip(found, gradients[number], strict=True))
    assert torch.equal(torch.get_rng_state(), expected)
    pairs = list(zip(step.tensors(), other.tensors(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)


def test_every_model_has_a_miniature() -> None:
    assert set(MINIATURES) == set(names())


@pytest.mark.parametrize("name", MINIATURES)
def test_family(name: str) -> None:
    assert_same_steps(miniature(name))


def test_missing_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    settings_of_run = {"model": {"width": 8, "missing": "masked_attention", "fusion": "late"}}
    monkeypatch.setitem(MINIATURES, "pamap2", settings_of_run)
    assert_same_steps(miniature("pamap2"))


def test_a_loss_that_draws_from_a_generator_of_its_own() -> None:
    generator = torch.Generator().manual_seed(3)

    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (model(x) * torch.rand(4, 8, generator=generator)).square().mean()

    step = step_of(nn.Linear(8, 8), torch.randn(4, 8), loss)
    assert generators(step)
    assert_same_steps(step)


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": lambda p: Adam(p, lr=1e-2, fused=True),
    "amsgrad": lambda p: Adam(p, lr=1e-2, fused=True, amsgrad=True),
    "sgd": lambda p: SGD(p, lr=1e-2),
    "fused sgd": lambda p: SGD(p, lr=1e-2, momentum=0.9, fused=True),
    "nesterov": lambda p: SGD(p, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adagrad": lambda p: Adagrad(p, lr=1e-2, fused=True),
    "rmsprop": lambda p: RMSprop(p, lr=1e-2, momentum=0.9),
    "two groups": lambda p: SGD([{"params": p[:2], "lr": 1e-1}, {"params": p[2:]}], lr=1e-3, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer(name: str) -> None:
    assert_same_steps(miniature("tiny", optimizer=OPTIMIZERS[name]))


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_autocast_and_clipping(precision: torch.dtype) -> None:
    plain = miniature("bert-base")

    def run(model: nn.Module, optimizer: Optimizer, batch: dict) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=precision):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss.detach()

    assert_same_steps(TrainingStep(plain.model, plain.optimizer, plain.batch, run))


@pytest.mark.sampled
@examples(10)
@given(st.lists(st.integers(0, RandomModel.KINDS - 1), min_size=1, max_size=10))
def test_random_models(choices: list[int]) -> None:
    assert_same_steps(random_step(choices))


class Recurrent(nn.Module):
    """An LSTM or a GRU over a sequence."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], layers: int) -> None:
        super().__init__()
        self.body = kind(4, 8, layers, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)[0].square().mean()


@pytest.mark.parametrize(("kind", "layers"), [(nn.LSTM, 1), (nn.LSTM, 2), (nn.GRU, 1)])
def test_recurrent(kind: type[nn.LSTM] | type[nn.GRU], layers: int) -> None:
    torch.manual_seed(0)
    assert_same_steps(step_of(Recurrent(kind, layers), torch.randn(3, 5, 4), lambda model, x: model(x)))


@pytest.mark.parametrize("encoder", ["lstm", "transformer"])
def test_other_encoders_of_pamap2(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MINIATURES, "pamap2", {"model": {"width": 8, "encoder": encoder}, "split": {"window": 64}})
    assert_same_steps(miniature("pamap2"))


def test_two_backward_passes() -> None:
    plain = miniature("tiny")

    def run(model: nn.Module, optimizer: Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        optimizer.zero_grad()
        logits = model(batch[0])
        nn.functional.cross_entropy(logits, batch[1]).backward(retain_graph=True)
        loss = logits.square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    step = TrainingStep(plain.model, plain.optimizer, plain.batch, run)
    assert_same_steps(step)
    for activation in activations(trace(step).graph):
        assert (
            activation.created
            <= activation.last_forward_use
            < activation.first_backward_use
            <= activation.last_backward_use
        )


def test_accumulated_passes() -> None:
    plain = miniature("tiny")
    images, labels = plain.batch

    def run(model: nn.Module, optimizer: Optimizer, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for one in (slice(0, 2), slice(2, 4)):
            loss = nn.functional.cross_entropy(model(batch[0][one]), batch[1][one]) / 2
            loss.backward()
            total = total + loss.detach()
        optimizer.step()
        return total

    assert_same_steps(TrainingStep(plain.model, plain.optimizer, (images, labels), run))

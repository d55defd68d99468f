"""What a traced step is made of, and what is said where a step cannot be traced."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam

from projects.profiler.families import Sizes, example_on_paper, names
from projects.profiler.ir import Phase, Role
from projects.profiler.program import Program
from projects.profiler.step import TraceError, TrainingStep, plain_step
from projects.profiler.trace import trace
from tests.unit.profiler.steps import adamw, miniature, step_of

OUTSIDE = torch.randn(8)


def test_roles_go_by_position() -> None:
    step = miniature("tiny")
    step.take()
    traced = trace(step)
    given = traced.graph.nodes[: traced.graph.first_call]
    counts = [len(step.parameters()), len(step.buffers()), len(step.optimizer_state()), 2]
    expected = np.repeat([Role.PARAMETER, Role.BUFFER, Role.OPTIMIZER_STATE, Role.INPUT], counts)
    assert [node.role for node in given] == expected.tolist()
    assert all(node.is_placeholder for node in given)
    assert not any(node.is_placeholder for node in traced.graph.nodes[traced.graph.first_call :])


def test_a_tied_weight_is_one_parameter_with_one_gradient() -> None:
    traced = trace(miniature("tiny"))
    assert len(traced.trained) == len(miniature("tiny").parameters()) == 13
    gradients = [one for one in traced.graph.storages if one.role is Role.GRADIENT]
    assert len(gradients) == len(traced.trained)


def test_phases_follow_each_other() -> None:
    graph = trace(miniature("bert-base")).graph
    order = [node.phase for node in graph.nodes[graph.first_call :]]
    starts = graph.phase_starts()
    assert list(starts) == [Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER]
    assert sorted(order, key=list(Phase).index) == order
    assert graph.nodes[starts[Phase.BACKWARD]].op == "aten.nll_loss_backward.default"
    assert {node.op for node in graph.nodes if node.phase is Phase.OPTIMIZER} >= {"aten._fused_adamw_.default"}


def test_a_second_forward_pass_is_no_optimizer() -> None:
    plain = miniature("tiny")

    def run(model: nn.Module, optimizer: Optimizer, batch: tuple[Tensor, Tensor]) -> Tensor:
        optimizer.zero_grad()
        for _ in range(2):
            loss = F.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
        optimizer.step()
        return loss.detach()

    graph = trace(TrainingStep(plain.model, plain.optimizer, plain.batch, run)).graph
    convolutions = [node.phase for node in graph.nodes if node.op == "aten.convolution.default"]
    assert convolutions == [Phase.FORWARD] * 4


def test_random_operators_and_batch_norms_are_marked() -> None:
    graph = trace(miniature("tiny")).graph
    assert [node.op for node in graph.nodes if node.random] == ["aten.bernoulli_.float"]
    norms = [node for node in graph.nodes if node.batch_norm]
    assert [node.module for node in norms] == ["norms.0", "norms.1"]
    # Its schema hides that the running statistics change.
    for node in norms:
        assert [graph.storages[one].role for one in node.writes] == [Role.BUFFER, Role.BUFFER]


def test_batch_norm_in_evaluation_changes_nothing() -> None:
    step = miniature("tiny")
    step.model.eval()
    assert all(not node.writes for node in trace(step).graph.nodes if node.batch_norm)


def test_views_share_their_storage_and_changes_are_known() -> None:
    graph = trace(miniature("tiny")).graph
    for node in graph.nodes:
        if node.op in ("aten.t.default", "aten.view.default", "aten.detach.default"):
            assert node.storages == graph.nodes[node.inputs[0]].storages
    dropped = next(node for node in graph.nodes if node.random)
    assert dropped.writes == dropped.storages


def test_modules_and_lines_are_those_of_the_user() -> None:
    graph = trace(miniature("tiny")).graph
    by_module = {node.module for node in graph.nodes if node.op == "aten.convolution.default"}
    assert by_module == {"first", "second"}
    backward = [node.module for node in graph.nodes if node.op == "aten.convolution_backward.default"]
    assert backward == ["second", "first"]
    user = step_of(nn.Linear(8, 8), torch.randn(2, 8), lambda model, x: model(x).square().mean())
    sources = {node.source for node in trace(user).graph.nodes if node.phase is Phase.FORWARD and not node.is_placeholder}
    assert all(__file__ in source for source in sources if source)
    assert any(sources)


def test_tracing_changes_nothing() -> None:
    step = miniature("tiny")
    step.take()
    step.optimizer.zero_grad()
    model, optimizer = copy.deepcopy((step.model, step.optimizer))
    state = torch.get_rng_state()
    trace(step)
    assert torch.equal(state, torch.get_rng_state())
    before = TrainingStep(model, optimizer, step.batch, step.run)
    assert all(torch.equal(a, b) for a, b in zip(step.tensors(), before.tensors(), strict=True))
    assert step.gradients() == [None] * len(step.gradients())


def test_a_fresh_optimizer_is_traced_as_from_its_second_step() -> None:
    fresh, stepped = miniature("tiny", optimizer=_momentum), miniature("tiny", optimizer=_momentum)
    stepped.take()
    assert [node.op for node in trace(fresh).graph.nodes] == [node.op for node in trace(stepped).graph.nodes]


def _momentum(parameters: list[nn.Parameter]) -> Optimizer:
    return SGD(parameters, lr=0.1, momentum=0.9, fused=True)


@pytest.mark.parametrize("name", names())
def test_full_size_on_paper(name: str) -> None:
    model, batch, loss = example_on_paper(name, {}, Sizes(2, 64, 224), torch.device("cpu"))
    graph = trace(step_of(model.train(), batch, loss)).graph
    assert sum(one.bytes for one in graph.storages if one.role is Role.ACTIVATION) > 0
    assert {node.phase for node in graph.nodes} == set(Phase)


class Odd(nn.Module):
    """A layer, and then something that depends on data."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(8, 8), kind

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.kind == "item":
            return y * y.mean().item()
        if self.kind == "branch" and y.sum() > 0:
            return y * 2
        if self.kind == "list":
            return y * y.tolist()[0][0]
        if self.kind == "mask":
            return y[y > 0]
        if self.kind == "nonzero":
            return y[(y > 0).nonzero()[:, 0]]
        if self.kind == "numpy":
            return y + torch.from_numpy(np.sin(y.detach().numpy()))
        if self.kind == "outside":
            return y * OUTSIDE
        return y


@pytest.mark.parametrize(
    ("kind", "code", "says"),
    [
        ("item", "y.mean().item()", "a number is read out of a tensor"),
        ("branch", "y.sum() > 0", "a number is read out of a tensor"),
        ("list", "y.tolist()", "a number is read out of a tensor"),
        ("mask", "y[y > 0]", "the shape depends on the data"),
        ("nonzero", "nonzero()", "the shape depends on the data"),
        ("numpy", "np.sin", "leaves torch for NumPy"),
        ("outside", "y * OUTSIDE", "register it as a buffer"),
    ],
)
def test_the_users_line_is_named(kind: str, code: str, says: str) -> None:
    step = step_of(Odd(kind), torch.randn(4, 8), lambda model, x: model(x).mean())
    with pytest.raises(TraceError) as caught:
        trace(step)
    message = str(caught.value)
    assert __file__ in message
    assert code in message
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("make", [Adam, AdamW, NAdam, RAdam, Adamax, Adagrad])
def test_optimizers_that_read_their_step_count_are_named(make: type[Optimizer]) -> None:
    step = step_of(nn.Linear(8, 8), torch.randn(4, 8), lambda model, x: model(x).mean(), lambda p: make(p, lr=0.1))
    for _ in range(2):
        with pytest.raises(TraceError, match="fused=True"):
            trace(step)
        step.take()


def test_optimizers_without_a_step_count_are_traced() -> None:
    step = step_of(nn.Linear(8, 8), torch.randn(4, 8), lambda model, x: model(x).mean(), lambda p: Adadelta(p, lr=0.1))
    assert trace(step).trained == (0, 1)


def _clipped(model: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
    optimizer.step()
    return loss.detach()


def _watched(model: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
    with torch.autograd.set_detect_anomaly(True, check_nan=True):
        return plain_step(lambda network, given: network(given).mean())(model, optimizer, x)


def _unreduced(model: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
    loss = model(x)
    loss.backward()
    optimizer.step()
    return loss


def _forgotten(model: nn.Module, _optimizer: Optimizer, x: Tensor) -> Tensor:
    return model(x).mean()


def _cut(model: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
    loss = model(x).detach().mean()
    loss.backward()
    optimizer.step()
    return loss


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (_clipped, "leave error_if_nonfinite out"),
        (_watched, "detect_anomaly"),
        (_unreduced, "the loss is not one number"),
        (_forgotten, "does it call backward"),
        (_cut, "the loss has no gradient"),
        (plain_step(lambda model, x: model(x)), r"the loss has shape \(4, 8\)"),
        (plain_step(lambda model, x: model(x).detach().mean()), "the loss has no gradient"),
    ],
)
def test_steps_that_are_none(run, says: str) -> None:
    model = nn.Linear(8, 8)
    with pytest.raises(TraceError, match=says):
        trace(TrainingStep(model, adamw(list(model.parameters())), torch.randn(4, 8), run))


def test_a_graph_is_only_run_on_what_it_was_traced_for() -> None:
    step = miniature("tiny")
    traced = trace(step)
    with pytest.raises(TraceError, match="after its first step"):
        traced.inputs(step)
    step.take()
    assert len(traced.inputs(step)) == traced.graph.first_call
    images, labels = step.batch
    smaller = TrainingStep(step.model, step.optimizer, (images[:2], labels[:2]), step.run)
    with pytest.raises(TraceError, match=r"traced as \(4, 3, 16, 16\) float32 on cpu, given \(2, 3, 16, 16\)"):
        traced.inputs(smaller)
    step.optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(TraceError, match="lr was 0.01 when the step was traced and is 0.5 now"):
        traced.inputs(step)


def test_frozen_and_unused_parameters_have_no_gradient() -> None:
    step = miniature("spoter")
    frozen = [index for index, one in enumerate(step.parameters()) if not one.requires_grad]
    assert frozen
    traced = trace(step)
    assert not set(frozen) & set(traced.trained)
    step.take()
    step.optimizer.zero_grad()
    assert len(Program(traced).run(traced.inputs(step))) == 1 + len(traced.trained)

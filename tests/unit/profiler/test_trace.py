"""What a traced step is made of, and what is said where a step cannot be traced."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam
from torch.utils.checkpoint import checkpoint

from labtrail.stepgraph.ir import Phase, Role
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.step import TraceError, TrainingStep, plain_step
from labtrail.stepgraph.trace import trace
from projects.profiler.families import Sizes, example_on_paper, names
from tests.sampling import in_prove_but
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
    gradients = [storage for storage in traced.graph.storages if storage.role is Role.GRADIENT]
    assert len(gradients) == len(traced.trained)


def test_phases_follow_each_other() -> None:
    graph = trace(miniature("bert-base")).graph
    order = [node.phase for node in graph.nodes[graph.first_call :]]
    starts = graph.phase_starts()
    assert list(starts) == [Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER]
    assert sorted(order, key=list(Phase).index) == order
    # It begins with the gradient of the loss itself.
    first = graph.nodes[starts[Phase.BACKWARD]]
    assert (first.op, first.role) == ("aten.ones_like.default", Role.OTHER)
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
        assert [graph.storages[write].role for write in node.writes] == [Role.BUFFER, Role.BUFFER]


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
    sources = {
        node.source for node in trace(user).graph.nodes if node.phase is Phase.FORWARD and not node.is_placeholder
    }
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


@pytest.mark.parametrize("name", in_prove_but({"bert-base", "resnet50", "spoter"}, names()))
def test_full_size_on_paper(name: str) -> None:
    model, batch, loss = example_on_paper(name, {}, Sizes(2, 64, 224), torch.device("cpu"))
    graph = trace(step_of(model.train(), batch, loss)).graph
    assert sum(storage.bytes for storage in graph.storages if storage.role is Role.ACTIVATION) > 0
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
def test_optimizers_that_read_their_step_count_are_named(make: Callable[..., Optimizer]) -> None:
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
    with pytest.raises(TraceError, match=r"lr was 0.01 when the step was traced and is 0.5 now"):
        traced.inputs(step)


class Ema(nn.Module):
    """Keeps a mean of its outputs: in place, or in a new tensor each time."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.layer, self.in_place = nn.Linear(8, 8), in_place
        self.register_buffer("mean", torch.zeros(8))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        now = y.detach().mean(0)
        if self.in_place:
            self.mean.mul_(0.9).add_(now)
        else:
            self.mean = self.mean * 0.9 + now
        return y - self.mean


class Plain(Optimizer):
    """Gradient descent that replaces weights, or counts in Python."""

    def __init__(self, parameters: list[nn.Parameter], counts: bool) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.counts = counts

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # ty: ignore[incompatible-method-override]
        for group in self.param_groups:
            for one in group["params"]:
                if self.counts:
                    self.state[one]["count"] = self.state[one].get("count", 0) + 1
                    one.sub_(one.grad, alpha=0.1 / self.state[one]["count"])
                else:
                    one.data = one.data - 0.1 * one.grad


def _squared(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().mean()


def test_what_is_replaced_instead_of_changed_is_refused() -> None:
    assert trace(step_of(Ema(in_place=True), torch.randn(4, 8), _squared)).trained
    with pytest.raises(TraceError, match="replaces buffer mean by another tensor; change it in place"):
        trace(step_of(Ema(in_place=False), torch.randn(4, 8), _squared))
    replacing = step_of(nn.Linear(8, 8), torch.randn(4, 8), _squared, lambda p: Plain(p, counts=False))
    with pytest.raises(TraceError, match="replaces parameter weight"):
        trace(replacing)
    counting = step_of(nn.Linear(8, 8), torch.randn(4, 8), _squared, lambda p: Plain(p, counts=True))
    with pytest.raises(TraceError, match="Plain counts in Python numbers"):
        trace(counting)


def test_numbers_of_the_batch_are_part_of_the_graph() -> None:
    model, x = nn.Linear(8, 8), torch.randn(4, 8)

    def run(network: nn.Module, optimizer: Optimizer, batch: dict) -> Tensor:
        return plain_step(lambda one, given: one(given["x"]).pow(given["power"]).mean())(network, optimizer, batch)

    step = TrainingStep(model, SGD(model.parameters(), lr=0.1), {"x": x, "power": 2, "name": "a"}, run)
    traced = trace(step)
    assert len(traced.inputs(step)) == 3
    other = TrainingStep(model, step.optimizer, {"x": x, "power": 3, "name": "a"}, run)
    with pytest.raises(TraceError, match="the batch: numbers were"):
        traced.inputs(other)


def test_a_gradient_that_nobody_clears_is_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    step = TrainingStep(model, SGD(model[0].parameters(), lr=0.1), torch.randn(4, 8), plain_step(_squared))
    with pytest.raises(TraceError, match=r"parameter 1.weight gets a gradient and is not the optimizer's"):
        trace(step)
    model[1].requires_grad_(False)
    assert trace(step).trained == (0, 1)


class Scaled(nn.Module):
    """Multiplies by a tensor that is not a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(8, 8), torch.full((8,), 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale


def test_a_tensor_of_nobody_is_refused() -> None:
    with pytest.raises(TraceError, match="register it as a buffer"):
        trace(step_of(Scaled(), torch.randn(4, 8), _squared))


def test_dropout_under_checkpointing_is_refused_and_the_rest_is_not() -> None:
    def step(rate: float) -> TrainingStep:
        inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(rate))

        class Checkpointed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> Tensor:
                return checkpoint(self.inner, x, use_reentrant=False)

        return step_of(Checkpointed(), torch.randn(4, 8), _squared)

    assert [node.phase for node in trace(step(0.0)).graph.nodes if node.op == "aten.relu.default"] == [
        Phase.FORWARD,
        Phase.BACKWARD,
    ]
    with pytest.raises(TraceError, match="trace the step without checkpointing"):
        trace(step(0.5))


def test_gradients_that_the_step_clears_itself_are_known() -> None:
    model = nn.Linear(8, 8)

    def run(network: nn.Module, optimizer: Optimizer, x: Tensor) -> Tensor:
        loss = _squared(network, x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    assert trace(TrainingStep(model, adamw(list(model.parameters())), torch.randn(4, 8), run)).trained == (0, 1)


@pytest.mark.parametrize("returned", [None, 0.5, (torch.zeros(()),)])
def test_a_step_returns_its_loss(returned: object) -> None:
    model = nn.Linear(8, 8)

    def run(network: nn.Module, optimizer: Optimizer, x: Tensor):
        plain_step(_squared)(network, optimizer, x)
        return returned

    with pytest.raises(TraceError, match="has to return its loss"):
        trace(TrainingStep(model, adamw(list(model.parameters())), torch.randn(4, 8), run))


def test_settings_that_are_tensors_and_new_groups_are_refused() -> None:
    tensor = step_of(nn.Linear(8, 8), torch.randn(4, 8), _squared, lambda p: AdamW(p, lr=torch.tensor(0.1), fused=True))
    with pytest.raises(TraceError, match="the optimizer's lr is a tensor"):
        trace(tensor)
    step = step_of(nn.Linear(8, 8), torch.randn(4, 8), _squared, lambda p: SGD(p, lr=0.1))
    traced = trace(step)
    torch.optim.lr_scheduler.StepLR(step.optimizer, 1)
    assert traced.inputs(step)
    step.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(TraceError, match="1 parameter groups when traced and has 2 now"):
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

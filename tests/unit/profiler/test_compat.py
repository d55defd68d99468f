"""A canary for each unstable API of torch: if an upgrade changes one, only compat.py has to follow."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labtrail.stepgraph import compat
from projects.profiler.tiny import Tiny


def test_fake_tensors_have_storages_and_no_memory() -> None:
    with compat.fake_mode():
        one = torch.empty(1 << 40)
        view = one.view(1 << 20, 1 << 20)[3]
    assert compat.is_fake(one)
    assert not compat.is_fake(torch.empty(1))
    assert one.untyped_storage().nbytes() == 4 << 40
    assert compat.storage_key(one) == compat.storage_key(view) == compat.storage_key(one.detach())
    assert compat.mode_of(one) is compat.mode_of(view)


def test_fake_copy_keeps_ties_and_optimizer_state() -> None:
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    F.cross_entropy(model(torch.randn(2, 3, 16, 16)), torch.tensor([0, 1])).backward()
    optimizer.step()
    fake_model, fake_optimizer = compat.fake_copy((model, optimizer), compat.fake_mode())
    assert fake_model.mix.weight is fake_model.again.weight
    assert compat.is_fake(fake_model.mix.weight)
    assert isinstance(fake_model.mix.weight, nn.Parameter)
    assert set(fake_optimizer.state) == set(fake_model.parameters())
    assert not compat.is_fake(model.mix.weight)


def test_meta_models_become_fake_with_their_ties() -> None:
    with torch.device("meta"):
        model = Tiny()
    compat.fake_of_meta(model, compat.fake_mode(), torch.device("cpu"))
    assert model.mix.weight is model.again.weight
    assert {one.device.type for one in [*model.parameters(), *model.buffers()]} == {"cpu"}
    assert all(compat.is_fake(one) for one in [*model.parameters(), *model.buffers()])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_known_number_is_forgotten() -> None:
    with compat.fake_mode():
        one = torch.tensor(3.0)
        assert one.item() == 3.0
        compat.forget_numbers([one])
        with pytest.raises(compat.DATA_DEPENDENT):
            one.item()


def test_shapes_that_depend_on_data_are_refused() -> None:
    with compat.fake_mode(), pytest.raises(compat.DATA_DEPENDENT):
        torch.randn(4).nonzero()


def test_calls_are_traced_with_their_fake_values() -> None:
    mode = compat.fake_mode()
    with mode:
        weight = nn.Parameter(torch.randn(3, 3))

    def step(_weight: torch.Tensor) -> list[torch.Tensor]:
        loss = (weight * torch.tensor(2.0)).sum()
        loss.backward()
        assert weight.grad is not None
        return [loss.detach(), weight.grad]

    calls = compat.trace_calls(step, [weight], mode)
    targets = [str(node.target) for node in calls.graph.nodes if node.op == "call_function"]
    assert "aten.mul.Tensor" in targets
    assert len(calls.constants) == 1
    assert all(compat.is_fake(node.meta["val"]) for node in calls.graph.nodes if node.op == "call_function")


def test_an_operator_that_cannot_be_written_as_source_is_traced() -> None:
    # Its argument is called ``from``.
    mode = compat.fake_mode()
    with mode:
        x = torch.empty(4, dtype=torch.int64)
    calls = compat.trace_calls(lambda one: one.clone().random_(-5, None), [x], mode)
    assert any("random_" in str(node.target) for node in calls.graph.nodes)


def test_markers_exist() -> None:
    assert {str(one) for one in compat.MARKERS} == {
        "profiler._record_function_enter_new.default",
        "profiler._record_function_exit._RecordFunction",
    }


class Watch(compat.TorchDispatchMode):
    """Notes what autograd tells about each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((str(func), compat.in_backward(), compat.sequence_number()))
        return func(*args, **(kwargs or {}))


def test_autograd_tells_which_call_belongs_to_which() -> None:
    x = torch.randn(3, requires_grad=True)
    with Watch() as watch:
        x.sin().exp().sum().backward()
    forward = {name: number for name, backward, number in watch.seen if not backward}
    backward = {name: number for name, running, number in watch.seen if running}
    assert forward["aten.sin.default"] == backward["aten.cos.default"]
    assert "aten.sin.default" not in backward
    assert "aten.cos.default" not in forward


def test_the_allocator_reports_its_calls() -> None:
    def work() -> None:
        one = torch.empty(1000)
        del one
        torch.empty(10)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compat.memory_events(work)
    assert [event.bytes for event in found] == [4000, -4000, 40, -40]


def test_a_weak_reference_tells_when_a_storage_is_gone() -> None:
    one = torch.empty(5)
    view = one[1:]
    reference = compat.StorageWeakRef(one.untyped_storage())
    del one
    assert not reference.expired()
    del view
    assert reference.expired()


def test_bytes_share_the_memory() -> None:
    one = torch.zeros(3)
    content = compat.bytes_of(one[1:])
    assert content.shape == (12,)
    content.fill_(255)
    assert one.isnan().all()


def test_leaves_are_the_tensors_of_nested_values() -> None:
    one, other = torch.zeros(1), torch.ones(1)
    assert compat.leaves({"b": [one, 3], "a": (other, None)}) == [one, other]


def test_attention_draws_only_where_it_drops_something() -> None:
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
    assert not compat.draws(attention, (1, 2, 3), {})
    assert not compat.draws(attention, (1, 2, 3, 0.0), {})
    assert compat.draws(attention, (1, 2, 3, 0.1), {})
    assert compat.draws(attention, (1, 2, 3), {"dropout_p": 0.1})
    assert compat.draws(torch.ops.aten.bernoulli.p, (1, 0.0), {})
    assert not compat.draws(torch.ops.aten.add.Tensor, (1, 2), {})

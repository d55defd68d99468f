"""Taking parts away: against brute force, against closed forms, and without traces in the network."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from projects.spoter.interpret.gradients import (
    centred,
    integrated_gradients,
    query_key_norms,
    target_logit,
    untrained_norms,
)
from projects.spoter.interpret.interventions import (
    FRACTIONS,
    GROUPS,
    ablate_heads,
    area_under,
    deletion_curves,
    head_removed,
    occlude_joints,
    order_sensitivity,
)
from projects.spoter.model import Layout
from projects.spoter.skeleton import JOINTS
from tests.unit.spoter.study import CPU, SMALL, random_inputs, small_model

LENGTHS = [4, 9, 2, 9]


def test_order_of_frames_matters_only_with_positions() -> None:
    """The one place where "temporal" is earned: a network without positions cannot know when a frame was."""
    inputs = random_inputs(LENGTHS)
    assert order_sensitivity(small_model(), inputs, range(4), seed=0) < 1e-4
    assert order_sensitivity(small_model(positions=True), inputs, range(4), seed=0) > 1e-2


def test_ablation_equals_a_network_whose_head_says_nothing() -> None:
    model, inputs = small_model(), random_inputs(LENGTHS)
    targets = np.array([0, 1, 2, 3])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = ablate_heads(model, inputs, targets, max_frames=13)
    assert found.shape == (4, 4, 9)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    for clip in range(4):
        start, length = int(inputs.starts[clip]), LENGTHS[clip]
        frames, layout = inputs.frames[start : start + length], Layout.of([length], CPU)
        with torch.inference_mode():
            whole = centred(model(frames, layout))[0, clip]
            for column, attention in enumerate(model.attentions().values()):
                for head in (0, 5):
                    with head_removed(attention, head):
                        expected = centred(model(frames, layout))[0, clip] - whole
                    assert found[clip, column, head] == pytest.approx(float(expected), abs=1e-5)


def test_removed_head_adds_nothing_and_comes_back_after_an_error() -> None:
    attention = small_model().attentions()["enc_0"]
    before = attention.out_proj.weight.clone()
    with head_removed(attention, 2):
        assert attention.out_proj.weight[:, 24:36].eq(0).all()
        assert torch.equal(attention.out_proj.weight[:, :24], before[:, :24])
    assert torch.equal(attention.out_proj.weight, before)
    with pytest.raises(ZeroDivisionError), head_removed(attention, 2):
        _ = 1 / 0
    assert torch.equal(attention.out_proj.weight, before)


class Linear(nn.Module):
    """Logits that are linear in the frames' sum: everything about it is known in closed form."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, frames_ND: Tensor, layout: Layout) -> Tensor:
        return layout.pad(frames_ND).sum(1) @ self.weight.T


def test_integrated_gradients_of_a_linear_network() -> None:
    weight = torch.randn(3, 108, generator=torch.Generator().manual_seed(0))
    inputs, targets, baseline = random_inputs(LENGTHS), np.array([0, 1, 2, 1]), torch.full((108,), 0.1)
    found = integrated_gradients(Linear(weight), inputs, targets, baseline, 2, 64)
    effective = (weight - weight.mean(0))[np.repeat(targets, LENGTHS)]
    torch.testing.assert_close(found.values, (inputs.frames - baseline) * effective)
    assert found.error.max() < 1e-4


def test_integrated_gradients_are_complete_on_the_network() -> None:
    model, inputs, targets = small_model(), random_inputs(LENGTHS), np.array([3, 2, 1, 0])
    baseline = inputs.frames.mean(0)
    coarse, fine = (integrated_gradients(model, inputs, targets, baseline, steps, 13) for steps in (2, 64))
    assert fine.error.max() < 2e-3
    assert fine.error.max() < coarse.error.max()
    sums = np.add.reduceat(fine.values.sum(1).numpy(), inputs.starts)
    layout = Layout.of(LENGTHS, CPU)
    chosen = torch.from_numpy(targets)
    with torch.inference_mode():
        whole = target_logit(model, inputs.frames, layout, chosen)
        none = target_logit(model, baseline.expand_as(inputs.frames).contiguous(), layout, chosen)
    np.testing.assert_allclose(sums, (whole - none).numpy(), atol=2e-3)


def test_query_key_norms_by_brute_force() -> None:
    model = small_model()
    weight = model.attentions()["enc_0"].in_proj_weight.detach().double()
    found = query_key_norms(model)
    head, joint = 4, JOINTS.index("leftWrist")
    query, key = weight[48:60], weight[156:168]
    form = query.T @ key / 12**0.5
    assert found[0, head, joint] == pytest.approx(float(form[2 * joint : 2 * joint + 2].norm()))
    assert found[1, head, joint] == pytest.approx(float(form[:, 2 * joint : 2 * joint + 2].norm()))


def test_untrained_norms_hold_an_untrained_network() -> None:
    null = untrained_norms(SMALL, 4, draws=20, seed=0)
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    own = query_key_norms(small_model(seed=99))
    assert ((own >= low) & (own <= high)).mean() == pytest.approx(0.93, abs=0.06)


class Counting(nn.Module):
    """Class 1 is as probable as the share of marked frames (first coordinate 1) among those that are left."""

    def forward(self, frames_ND: Tensor, layout: Layout) -> Tensor:
        marked, total = layout.pad(frames_ND)[..., 0].sum(1), layout.pad(torch.ones_like(frames_ND))[..., 0].sum(1)
        return torch.stack([1 - marked / total, marked / total], dim=1).clamp(1e-30, None).log()


def test_deletion_curves_by_hand() -> None:
    clip = torch.zeros(10, 108)
    clip[[2, 7], 0] = 1.0
    best = clip[:, 0].numpy()
    orders = {"best": best, "worst": -best, "mixed": np.stack([best, -best])}
    found = deletion_curves(Counting(), clip, 1, orders, 64)
    np.testing.assert_allclose(found["best"], [0.2, 1 / 9, *[0.0] * 8], atol=1e-6)
    np.testing.assert_allclose(found["worst"], [2 / (10 - k) for k in range(9)] + [1.0], atol=1e-6)
    np.testing.assert_allclose(found["mixed"], (found["best"] + found["worst"]) / 2)
    assert area_under(found["best"]) < area_under(found["worst"])
    assert area_under(np.full(len(FRACTIONS), 0.3)) == pytest.approx(0.3)


def test_deletion_leaves_the_order_of_frames_alone() -> None:
    model, clip = small_model(positions=True), torch.randn(8, 108)
    importance = {"one": np.arange(8.0), "other": np.random.default_rng(0).random((3, 8))}
    found = deletion_curves(model, clip, 1, importance, 64)
    with torch.inference_mode():
        whole = float(model(clip, Layout.of([8], CPU)).softmax(1)[0, 1])
    assert found["one"][0] == pytest.approx(whole, rel=1e-5)
    assert found["other"][0] == pytest.approx(whole, rel=1e-5)


def test_deletion_keeps_one_frame() -> None:
    found = deletion_curves(small_model(), torch.randn(2, 108), 0, {"first": np.array([1.0, 0.0])}, 8)
    assert np.isfinite(found["first"]).all()
    np.testing.assert_allclose(found["first"][:5], found["first"][0], rtol=1e-5)
    np.testing.assert_allclose(found["first"][5:], found["first"][9], rtol=1e-5)


def test_occlusion_of_a_linear_network_and_of_what_is_already_so() -> None:
    weight = torch.randn(4, 108, generator=torch.Generator().manual_seed(0))
    inputs, filling, targets = random_inputs(LENGTHS), torch.full((108,), 0.2), np.array([0, 1, 2, 3])
    joints = GROUPS["left hand"]
    columns = [2 * joint + axis for joint in joints for axis in (0, 1)]
    linear = Linear(weight)
    found, nothing = occlude_joints(linear, inputs, targets, [joints, []], filling, 13)
    effective = (weight - weight.mean(0))[np.repeat(targets, LENGTHS)][:, columns]
    expected = ((0.2 - inputs.frames[:, columns]) * effective).sum(1).numpy()
    np.testing.assert_allclose(found, np.add.reduceat(expected, inputs.starts), atol=1e-3)
    same = inputs._replace(frames=filling.expand(sum(LENGTHS), 108).contiguous())
    assert not nothing.any()
    assert not occlude_joints(small_model(), same, targets, [joints], filling, 64).any()


def test_groups_cover_every_joint_once_beside_the_fingertips() -> None:
    parts = [joint for name, joints in GROUPS.items() if name != "fingertips" for joint in joints]
    assert sorted(parts) == list(range(54))
    assert len(GROUPS["fingertips"]) == 10

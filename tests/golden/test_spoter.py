"""The published SPOTER code's numbers, reproduced. Fixtures: tests/golden/fixtures/spoter (see its README)."""

import hashlib
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from projects.spoter import augment
from projects.spoter.clips import parse_csv
from projects.spoter.config import ModelConfig
from projects.spoter.model import Layout, Spoter
from projects.spoter.normalise import normalise
from projects.spoter.skeleton import ARMS, JOINTS
from tests.workspace import FIXTURES

SPOTER = FIXTURES / "spoter"
CPU = torch.device("cpu")
LENGTHS = (1, 5, 37, 204)
PRECISIONS = {"32": torch.float32, "64": torch.float64}
# The fixtures' README: what to allow.
LOGITS = {"32": 1e-5, "64": 1e-11}
ATTENTION = {"32": 1e-6, "64": 1e-11}
GRADIENTS = {"32": 1e-4, "64": 1e-11}


@cache
def arrays(name: str) -> dict[str, np.ndarray]:
    with np.load(SPOTER / name, allow_pickle=False) as file:
        return dict(file)


@cache
def recipe() -> dict:
    return json.loads((SPOTER / "keys.json").read_text())


def golden_model(precision: str) -> Spoter:
    generator = np.random.default_rng(recipe()["seed"])
    state = {}
    for name, shape in recipe()["keys"]:
        drawn = 0.05 * generator.standard_normal(shape)
        is_scale = len(shape) == 1 and name.endswith(".weight")
        state[name] = torch.from_numpy((1 + drawn if is_scale else drawn).astype(np.float32).reshape(shape))
    model = Spoter(ModelConfig(), recipe()["num_classes"])
    model.load_state_dict(state)
    return model.to(PRECISIONS[precision]).eval()


@cache
def outcome(precision: str, length: int) -> dict[str, np.ndarray]:
    """Everything that one clip yields: logits, loss, attention and gradients."""
    golden = arrays("model.npz")
    model = golden_model(precision)
    clip = torch.from_numpy(golden[f"input_T{length}"]).to(PRECISIONS[precision]).requires_grad_()
    frames, layout = clip.reshape(length, -1), Layout.of([length], CPU)
    found: dict[str, Tensor] = {}
    logits = model(frames, layout, lambda name, weights: found.__setitem__(f"attn_{name.replace('_', '')}", weights[0]))
    loss = F.cross_entropy(logits, torch.tensor([int(golden[f"label_T{length}"])]))
    loss.backward()
    found |= {"logits": logits[0], "loss": loss, "memory": model.encode(frames, layout)}
    found["decoder"] = model.decode(found["memory"], layout)[0]
    assert clip.grad is not None
    found["grad_input"] = clip.grad
    by_name = dict(model.named_parameters())
    gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in by_name.items()}
    found["grad_class_query"] = gradients["class_query"]
    found["grad_pos"] = gradients["pos"]
    label = int(golden[f"label_T{length}"])
    found["grad_linear_class_weight"] = gradients["linear_class.weight"][[*range(8), label], :16]
    rows = [*range(4), *range(108, 112), *range(216, 220)]
    projection = gradients["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    found["grad_enc0_in_proj_weight"] = projection[rows, :16]
    found["grad_norms"] = torch.stack([gradients[name].double().norm() for name, _ in recipe()["keys"]])
    return {name: value.detach().numpy() for name, value in found.items()}


def test_state_dict_has_the_published_names_and_shapes() -> None:
    state = Spoter(ModelConfig(), recipe()["num_classes"]).state_dict()
    assert [[name, list(value.shape)] for name, value in state.items()] == recipe()["keys"]
    assert sum(value.numel() for value in state.values()) == 5_922_772


def test_weights_recipe() -> None:
    check, state = recipe()["check"], golden_model("32").state_dict()
    assert sum(value.numel() for value in state.values()) == check["total_values"]
    content = b"".join(value.numpy().astype("<f4").tobytes() for value in state.values())
    assert hashlib.sha256(content).hexdigest() in json.dumps(check)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", LENGTHS)
def test_outputs(precision: str, length: int) -> None:
    golden, own = arrays("model.npz"), outcome(precision, length)
    for name in ("logits", "loss", "decoder"):
        np.testing.assert_allclose(own[name], golden[f"{name}{precision}_T{length}"], rtol=0, atol=LOGITS[precision])
    if precision == "64" and f"memory64_T{length}" in golden:
        np.testing.assert_allclose(own["memory"], golden[f"memory64_T{length}"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", [5, 37, 204])
def test_attention_of_every_head(precision: str, length: int) -> None:
    golden, own = arrays("model.npz"), outcome(precision, length)
    names = [name for name in own if name.startswith("attn_")]
    assert len(names) == 12
    compared = 0
    for name in names:
        key = f"attn{precision}_{name.removeprefix('attn_')}_T{length}"
        if key in golden:
            compared += 1
            np.testing.assert_allclose(own[name], golden[key], rtol=0, atol=ATTENTION[precision])
        np.testing.assert_allclose(own[name].sum(-1), 1, rtol=0, atol=1e-5)
    assert compared == (12 if length == 5 or (length, precision) == (37, "32") else 6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("length", LENGTHS)
def test_gradients(precision: str, length: int) -> None:
    golden, own = arrays("model.npz"), outcome(precision, length)
    allowed = GRADIENTS[precision]
    names = ("grad_class_query", "grad_pos", "grad_linear_class_weight", "grad_enc0_in_proj_weight", "grad_norms")
    for name in names:
        expected = golden[f"{name}{precision}_T{length}"]
        # At one frame query and key gradients are rounding noise around 0: those are compared absolutely.
        largest = max(np.abs(expected).max(), 1.0 if length == 1 and "enc0" in name else 0.0)
        np.testing.assert_allclose(own[name], expected, rtol=0, atol=allowed * largest)
    rows = golden[f"grad_input_rows_T{length}"]
    expected = golden[f"grad_input{precision}_T{length}"]
    atol = allowed * np.abs(expected).max()
    np.testing.assert_allclose(own["grad_input"][rows], expected, rtol=0, atol=atol)
    norm = golden[f"grad_input_norm{precision}_T{length}"]
    np.testing.assert_allclose(np.linalg.norm(own["grad_input"]), norm, rtol=allowed)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_batch_of_all_lengths_equals_single_clips(precision: str) -> None:
    golden = arrays("model.npz")
    model = golden_model(precision)
    clips = [torch.from_numpy(golden[f"input_T{t}"]).to(PRECISIONS[precision]).reshape(t, -1) for t in LENGTHS]
    maps: dict[str, Tensor] = {}
    with torch.inference_mode():
        logits = model(torch.cat(clips), Layout.of(list(LENGTHS), CPU), maps.__setitem__)
    for place, length in enumerate(LENGTHS):
        expected = golden[f"logits{precision}_T{length}"]
        np.testing.assert_allclose(logits[place].numpy(), expected, rtol=0, atol=LOGITS[precision])
        for name, weights in maps.items():
            assert weights[place, ..., length:].eq(0).all(), f"{name}: mass on padding"


@pytest.mark.parametrize("case", arrays("normalise.npz")["cases"].tolist())
def test_normalisation(case: str) -> None:
    golden = arrays("normalise.npz")
    raw = golden[f"{case}__raw"]
    own = normalise(raw, np.array([len(raw)]))
    np.testing.assert_allclose(own, golden[f"{case}__final"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(own[:, :12] + 0.5, golden[f"{case}__body"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(own[:, 12:] + 0.5, golden[f"{case}__hand"], rtol=0, atol=1e-12)


def test_normalisation_of_all_clips_at_once() -> None:
    golden = arrays("normalise.npz")
    cases = golden["cases"].tolist()
    raws = [golden[f"{case}__raw"] for case in cases]
    own = normalise(np.concatenate(raws), np.array([len(raw) for raw in raws]))
    expected = np.concatenate([golden[f"{case}__final"] for case in cases])
    np.testing.assert_allclose(own, expected, rtol=0, atol=1e-12)


def _augmentation(name: str, k: int) -> augment.Augmentation:
    golden = arrays("augment.npz")
    if name == "rotate":
        return augment.Rotation(float(golden["rotate_angle_deg"][k]))
    if name == "perspective":
        return augment.perspective(float(golden["perspective_ratio"][k]), bool(golden["perspective_side"][k]))
    if name == "squeeze":
        return augment.squeeze(float(golden["squeeze_left"][k]), float(golden["squeeze_right"][k]))
    return augment.ArmRotation(golden["arm_angle_deg"][k].reshape(len(ARMS), 4))


AUGMENTATIONS = [
    (name, k)
    for name in ("rotate", "perspective", "squeeze", "arm")
    for k in range(len(arrays("augment.npz")[f"{name}_input"]))
]


@pytest.mark.parametrize(("name", "k"), AUGMENTATIONS)
def test_augmentation(name: str, k: int) -> None:
    golden = arrays("augment.npz")
    clip = golden[f"input_{golden[f'{name}_input'][k]}"]
    change = _augmentation(name, k)
    if isinstance(change, augment.Homography):
        np.testing.assert_array_equal(change.corners, golden[f"{name}_corners"][k])
        np.testing.assert_allclose(augment.homography_matrix(change.corners), golden[f"{name}_matrix"][k], atol=1e-9)
    own = augment.apply(change, clip, "original")
    allowed = 1e-6 if name in ("perspective", "squeeze") else 1e-12
    np.testing.assert_allclose(own, golden[f"{name}_out_{k}"], rtol=0, atol=allowed)
    final = normalise(own, np.array([len(own)]))
    np.testing.assert_allclose(final, golden[f"{name}_final_{k}"], rtol=0, atol=max(allowed, 1e-12))


@pytest.mark.parametrize("k", range(len(arrays("augment.npz")["item_py_seed"])))
def test_training_item_with_the_published_draws(k: int) -> None:
    golden = arrays("augment.npz")
    clip = golden[f"input_{golden['item_input'][k]}"]
    change = augment.draw(random.Random(int(golden["item_py_seed"][k])), probability=0.5)
    kinds = {-1: type(None), 0: augment.Rotation, 1: augment.Homography, 2: augment.Homography, 3: augment.ArmRotation}
    assert isinstance(change, kinds[int(golden["item_choice"][k])])
    own = clip if change is None else augment.apply(change, clip, "original")
    final = normalise(own, np.array([len(own)]))
    np.testing.assert_allclose(final, golden[f"item_final_{k}"], rtol=0, atol=1e-6)


def test_csv_loading() -> None:
    with np.load(SPOTER / "csv/expected.npz", allow_pickle=False) as expected:
        assert list(JOINTS) == expected["joints"].tolist()
        clips = parse_csv(Path(SPOTER / "csv/sample.csv"), "labels")
        np.testing.assert_array_equal(clips.frames, expected["array"])
        np.testing.assert_array_equal(clips.lengths, expected["lengths"])
        np.testing.assert_array_equal(clips.labels - 1, expected["targets"])
        final = normalise(clips.frames, clips.lengths)
        np.testing.assert_allclose(final, expected["final"], rtol=0, atol=1e-12)

"""Attention from masked batches: exact, beside an unchanged output, and readable one clip at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from labtrail.errors import DataError
from projects.spoter.attention_file import AttentionFile, to_bytes, to_samples
from projects.spoter.batches import Inputs
from projects.spoter.capture import capture
from projects.spoter.config import ModelConfig
from projects.spoter.evaluate import logits_of
from projects.spoter.model import Spoter
from tests.unit.spoter.study import random_inputs, small_model

LENGTHS = np.random.default_rng(0).integers(1, 30, 70).tolist()
NAMES = [*(f"enc_{i}" for i in range(6)), *(f"dec_{i}" for i in range(6))]


def in_double(inputs: Inputs) -> Inputs:
    return inputs._replace(frames=inputs.frames.double())


def test_capture_leaves_the_output_bit_identical() -> None:
    model, inputs = small_model(), random_inputs(LENGTHS)
    captured = capture(model, inputs, 128)
    assert len(LENGTHS) >= 64
    assert torch.equal(captured.logits, logits_of(model, inputs, 4, 128))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_batches_equal_single_clips(dtype: torch.dtype, tolerance: float) -> None:
    model, inputs = small_model().to(dtype), random_inputs(LENGTHS[:20])
    inputs = inputs if dtype == torch.float32 else in_double(inputs)
    together, alone = (capture(model, inputs, frames, dtype) for frames in (200, 1))
    for name in together.weights:
        torch.testing.assert_close(together.weights[name], alone.weights[name], rtol=0, atol=tolerance)
    torch.testing.assert_close(together.logits, alone.logits, rtol=0, atol=10 * tolerance)


def test_every_module_of_the_paper_has_rows_that_sum_to_one() -> None:
    torch.manual_seed(0)
    model = Spoter(ModelConfig(feed_forward=16), 5).eval()
    captured = capture(model, random_inputs([3, 1, 7]), 64, torch.float32)
    assert captured.modules == NAMES
    for clip, length in enumerate((3, 1, 7)):
        for name, weights in captured.clip(clip).items():
            assert weights.shape == (9, length if name.startswith("enc") else 1, length)
            np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)


def test_train_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode only"):
        capture(small_model().train(), random_inputs([3]), 64)


def test_file_returns_each_clip(tmp_path: Path) -> None:
    inputs = random_inputs(LENGTHS[:9])
    captured = capture(small_model(), inputs, 64)
    path = tmp_path / "epoch_010.safetensors"
    path.write_bytes(to_bytes(captured, inputs.labels.numpy(), {"epoch": 10, "run": "r"}))
    file = AttentionFile(path)
    assert (len(file), file.facts["epoch"], file.facts["dtype"]) == (9, 10, "float16")
    assert file.modules == ["enc_0", "enc_1", "dec_0", "dec_1"]
    assert file.predictions.tolist() == captured.logits.argmax(1).tolist()
    exact = capture(small_model(), inputs, 64, torch.float32)
    for clip in range(9):
        for name, weights in file.clip(clip).items():
            np.testing.assert_array_equal(weights, captured.clip(clip)[name])
            np.testing.assert_allclose(weights, exact.clip(clip)[name], rtol=6e-4)
    with pytest.raises(IndexError):
        file.clip(9)


def test_file_has_the_tensors_that_others_rely_on(tmp_path: Path) -> None:
    inputs = random_inputs([2, 5])
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_bytes(capture(small_model(), inputs, 64), inputs.labels.numpy(), {}))
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
    assert tensors["enc_0"].dtype == np.float16
    assert tensors["offsets_enc"].tolist() == [0, 9 * 4, 9 * 29]
    assert tensors["offsets_dec"].tolist() == [0, 9 * 2, 9 * 7]
    assert tensors["frames"].tolist() == [2, 5]
    assert {"labels", "predictions", "clips", "enc_1", "dec_0", "dec_1"} < set(tensors)


def test_export_has_one_dictionary_a_clip() -> None:
    inputs = random_inputs([2, 5])
    exported = to_samples(capture(small_model(), inputs, 64), inputs.labels.numpy(), {"epoch": 3})
    assert exported["metadata"] == {"epoch": 3}
    assert exported["samples"][1]["attention"]["enc_1"].shape == (9, 5, 5)
    assert exported["samples"][1]["attention"]["dec_0"].shape == (9, 1, 5)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 20, None])
def test_damaged_or_foreign_files_are_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "epoch_001.safetensors"
    if content is None:
        save_file({"a": np.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"epoch_001\.safetensors: not a"):
        AttentionFile(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        AttentionFile(tmp_path / "gone.safetensors")

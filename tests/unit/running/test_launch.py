"""Device, precision and processes are what was asked, or an error."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from labtrail.config import Compute
from labtrail.errors import LaunchError
from labtrail.running import launch
from labtrail.running.launch import granted_gpus, make_accelerator, set_numerics, use_gpu
from labtrail.store.contract import PARENT_PROCESS_VARIABLE

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("value", "granted"),
    [
        (None, []),
        ("", []),
        ("-1", []),
        ("-1,0", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0", ["0"]),
        ("1, 2", ["1", "2"]),
        ("0,-1,2", ["0"]),
        ("MIG-41b3,GPU-77a0", ["MIG-41b3", "GPU-77a0"]),
    ],
)
def test_gpus_are_used_only_where_they_are_granted(
    value: str | None, granted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert granted_gpus() == granted
    assert use_gpu() is bool(granted)


@pytest.fixture(autouse=True)
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(LaunchError, match="fp16 needs a GPU"):
        make_accelerator(Compute(precision="fp16"), None, 60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU that must be missing")
def test_granted_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(LaunchError, match="grants a GPU, but torch"):
        make_accelerator(Compute(), None, 60)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch.cuda stood in for: a machine of two GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match="4 processes on this machine, 2 GPUs granted"):
        make_accelerator(Compute(), None, 60)


def test_a_gpu_that_nobody_granted_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "version").touch()
    monkeypatch.setattr(launch, "_DRIVER", tmp_path / "version")
    with caplog.at_level(logging.INFO, logger="labtrail"):
        make_accelerator(Compute(), None, 60)
        assert caplog.text == ""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        make_accelerator(Compute(), None, 60)
    assert "none was granted: going on without; CUDA_VISIBLE_DEVICES=0 grants one" in caplog.text


def test_numerics_are_set_and_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.allow_tf32
    try:
        set_numerics(Compute(deterministic=True, tf32=False))
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
        set_numerics(Compute())
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_other_number_of_processes_is_an_error() -> None:
    with pytest.raises(LaunchError, match="2 processes were asked for, 1 started"):
        make_accelerator(Compute(), 2, 60)


def test_threads_and_device() -> None:
    accelerator = make_accelerator(Compute(threads=1), None, 60)
    assert isinstance(accelerator, Accelerator)
    assert accelerator.device.type == "cpu"
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("variables", "status"), [({}, 143), ({"LOCAL_RANK": "0", "WORLD_SIZE": "1"}, 0)])
def test_a_job_whose_starter_is_gone_ends_but_a_rank_looks_at_its_launcher(
    variables: dict[str, str], status: int
) -> None:
    gone = {**os.environ, PARENT_PROCESS_VARIABLE: "999999999", **variables}
    command = [sys.executable, "-m", "projects.distill", "--print-config"]
    done = subprocess.run(command, env=gone, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr

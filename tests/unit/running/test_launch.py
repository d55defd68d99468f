"""Device, precision and processes are what was asked, or an error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from labtrail.config import Compute
from labtrail.contract import PARENT_PROCESS_VARIABLE
from labtrail.errors import LaunchError
from labtrail.running.launch import make_accelerator, use_gpu

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("value", "granted"), [(None, False), ("", False), ("-1", False), ("0", True), ("1,2", True)])
def test_gpu_only_where_it_is_granted(value: str | None, granted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if value is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert use_gpu() is granted


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

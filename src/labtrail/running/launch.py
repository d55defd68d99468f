"""What was asked of the machine: device, precision, number of processes.

Why: docs/decisions/006-keep-freed-memory.md
     docs/decisions/046-accelerate-cpu-by-default.md
"""

import ctypes
import itertools
import logging
import os
import sys
from datetime import timedelta
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from labtrail.config import Compute
from labtrail.errors import LaunchError
from labtrail.running.processes import is_worker

_log = logging.getLogger("labtrail")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# What schedulers write where a job has no GPU.
_NO_GPU = ("", "-1", "none", "nodevfiles", "void")
_DRIVER = Path("/proc/driver/nvidia/version")
_KEPT_BYTES, _GLIBC_DEFAULT = 1 << 30, 128 << 10


def granted_gpus() -> list[str]:
    """The GPUs that were granted: the entries of CUDA_VISIBLE_DEVICES, up to the first that names none.

    CUDA itself reads the list so: what stands behind an entry that names no device is not visible.
    """
    entries = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return list(itertools.takewhile(lambda entry: entry.lower() not in _NO_GPU, entries))


def use_gpu() -> bool:
    """Whether a GPU was granted; unset, empty, "-1" and the words of schedulers for none mean that it was not."""
    return bool(granted_gpus())


def make_accelerator(compute: Compute, processes: int | None, timeout_s: float) -> Accelerator:
    """The one place that decides device, precision and process group.

    Args:
        compute: precision and threads.
        processes: how many processes there must be; None: as many as the launcher started.
        timeout_s: seconds after which a collective that some rank does not join is an error.

    Raises:
        LaunchError: a granted GPU that torch cannot use, more processes than GPUs, fp16 without a GPU, or other than
            the asked processes.
    """
    keep_freed_memory()
    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    gpu = use_gpu()
    set_numerics(compute)
    if not gpu and _DRIVER.exists() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        _log.info("this machine has a GPU, and none was granted: going on without; CUDA_VISIBLE_DEVICES=0 grants one")
    if gpu and not torch.cuda.is_available():
        raise LaunchError(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} grants a GPU, but torch {torch.__version__} "
            "finds none; install a CUDA build or unset the variable"
        )
    if gpu and (ranks := int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > torch.cuda.device_count():
        raise LaunchError(
            f"{ranks} processes on this machine, {torch.cuda.device_count()} GPUs granted: each needs one of its own; "
            f"use --processes {torch.cuda.device_count()}, or grant more by CUDA_VISIBLE_DEVICES"
        )
    if compute.precision == "fp16" and not gpu:
        raise LaunchError("compute.precision: fp16 needs a GPU (none is granted); use bf16 or no")
    asked = processes if processes is not None else _asked_of_launcher()
    accelerator = Accelerator(
        cpu=not gpu,
        mixed_precision=compute.precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))],
    )
    if asked is not None and accelerator.num_processes != asked:
        raise LaunchError(
            f"{asked} processes were asked for, {accelerator.num_processes} started; "
            f"use --processes {asked}, or 'torchrun --nproc-per-node {asked} -m ...'"
        )
    return accelerator


def set_numerics(compute: Compute) -> None:
    """Which kernels torch may choose; to be called before CUDA starts, which reads the size of cuBLAS's workspace once.

    Strictness only warns: some operators in common use have no kernel that repeats (PyTorch, "Reproducibility").
    """
    if compute.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # Filling memory that is overwritten anyway costs time and changes no result.
        torch.utils.deterministic.fill_uninitialized_memory = False  # ty: ignore[missing-attribute] made by its class
    torch.use_deterministic_algorithms(compute.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic = compute.deterministic
    if compute.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = compute.tf32


def require_one_process(accelerator: Accelerator, task: str) -> None:
    """Refuses several processes for a task that would only repeat its work in each.

    Raises:
        LaunchError: more than one process was started.
    """
    if accelerator.num_processes > 1:
        raise LaunchError(
            f"{task} runs in one process, {accelerator.num_processes} were started; leave --processes out"
        )


def keep_freed_memory(keep: bool = True) -> None:
    """Whether glibc keeps freed memory for the next allocation, instead of returning it to the system.

    Every step frees and allocates gradients and activations of the same sizes; fetching them from the
    system page by page costs a tenth of a small model's step on a CPU.
    """
    libc = ctypes.CDLL(None)
    if sys.platform.startswith("linux") and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES if keep else _GLIBC_DEFAULT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES if keep else _GLIBC_DEFAULT)


def _asked_of_launcher() -> int | None:
    """The number that ``accelerate launch`` was given; with --cpu it starts one process, whatever the number."""
    if is_worker():
        return int(os.environ["WORLD_SIZE"])
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return None
    parent = psutil.Process().parent()
    words = [part for word in (parent.cmdline() if parent else []) for part in word.split("=", 1)]
    for option, value in itertools.pairwise(words):
        if option in ("--num_processes", "--num-processes") and value.isdigit():
            return int(value)
    return None

"""The process of a command: started again as several ranks, ended with whoever started it; needs no torch."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from labtrail.store.contract import PARENT_PROCESS_VARIABLE

_PR_SET_PDEATHSIG = 1


def is_worker() -> bool:
    """Whether a launcher has started this process as one rank of several."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def this_program() -> Sequence[str]:
    """Words after ``python`` that start this program from a copy of its code, where every module is on the path."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return ["-m", Path(sys.argv[0]).stem if sys.argv[0].endswith(".py") else "labtrail.console"]
    return ["-m", str(spec.name).removesuffix(".__main__")]


def relaunch(program: Sequence[str], arguments: Sequence[str], processes: int) -> None:
    """Replaces this process by torchrun with that many workers of the same command on this machine.

    Args:
        program: ``-m`` and a module.
        arguments: of the command.
        processes: how many workers.
    """
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *program, *arguments]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 no shell is the point


def end_with_parent() -> None:
    """Asks the kernel for SIGTERM when the parent dies, so that no training outlives its launcher (Linux).

    Only for processes that a launcher started (``mlflow run``, torchrun, a campaign): one started from a shell may
    outlive it.
    """
    launched = is_worker() or "MLFLOW_RUN_ID" in os.environ or PARENT_PROCESS_VARIABLE in os.environ
    if not sys.platform.startswith("linux") or not launched:
        return
    # A parent that died while this process was still importing is noticed by its number; a rank's is its launcher.
    parent = os.getppid() if is_worker() else int(os.environ.get(PARENT_PROCESS_VARIABLE, os.getppid()))
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)

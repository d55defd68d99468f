"""Why a step could not be traced: the user's own line, the cause, and what to write instead."""

import os
import sysconfig
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

import labtrail
from labtrail.errors import LabtrailError
from labtrail.stepgraph import compat
from labtrail.stepgraph.step import TraceError

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_PYTHON = f"{sysconfig.get_path('stdlib')}{os.sep}"
# Lines of the profiler and of the platform are nobody's mistake.
_OWN = (f"{Path(__file__).parent}{os.sep}", f"{Path(labtrail.__file__).parent}{os.sep}")
_READS_A_NUMBER = "aten._local_scalar_dense.default"


class Failed(NamedTuple):
    """What is known about a failed trace.

    Attributes:
        error: what was raised.
        op: the operator that could not be traced, where torch names it.
        files: of the frames between the step and the error, outermost first.
    """

    error: Exception
    op: str
    files: Sequence[str]

    def within(self, part: str) -> bool:
        """Whether a file of torch whose path contains ``part`` was at work."""
        return any(part in file for file in self.files if file.startswith(_TORCH))

    @property
    def within_engine(self) -> bool:
        """Whether autograd itself was at work, not a user's backward function."""
        engine = [index for index, file in enumerate(self.files) if file.endswith("/autograd/graph.py")]
        return bool(engine) and not any(is_users(file) for file in self.files[engine[-1] :])

    def says(self, *words: str) -> bool:
        """Whether torch's own message contains one of these."""
        return any(word in str(self.error) for word in words)


class _Cause(NamedTuple):
    applies: Callable[[Failed], bool]
    says: str


# In order: the first that applies is told.
_CAUSES = (
    _Cause(
        lambda at: at.op == _READS_A_NUMBER and at.within("/torch/optim/"),
        "the optimizer reads its step count with .item(); make it with fused=True where it has that (Adam, AdamW, "
        "Adagrad, SGD), or on a GPU with capturable=True",
    ),
    _Cause(
        lambda at: at.op == _READS_A_NUMBER and at.within("/clip_grad"),
        "clip_grad_norm_(error_if_nonfinite=True) looks at the norm; leave error_if_nonfinite out",
    ),
    _Cause(
        lambda at: at.op == _READS_A_NUMBER and at.within_engine,
        "detect_anomaly(check_nan=True) looks at every gradient; trace without it",
    ),
    _Cause(
        lambda at: isinstance(at.error, compat.SHAPE_DEPENDENT),
        "the shape depends on the data (boolean index, nonzero, unique); use torch.where or multiply by a mask",
    ),
    _Cause(
        lambda at: isinstance(at.error, compat.DATA_DEPENDENT),
        "a number is read out of a tensor (.item(), float(), tolist(), equal(), if), so the step depends on the data; "
        "keep it a tensor (torch.where), or move the line out of the step",
    ),
    _Cause(
        lambda at: at.says("convert all Tensors to FakeTensors"),
        "a tensor takes part that belongs neither to the model nor to the batch; register it as a buffer, or put it "
        "into the batch",
    ),
    _Cause(
        lambda at: at.says(".numpy()", "numpy() is not supported", "to NumPy"),
        "the step leaves torch for NumPy; compute it in torch, or before the step",
    ),
    _Cause(
        lambda at: at.says("cannot pickle", "torch._C.Generator"),
        "the model, the optimizer or the batch holds something that cannot be copied (a lock, a file, a random "
        "generator); keep it outside of them",
    ),
    _Cause(
        lambda at: at.says("can be implicitly created only for scalar"),
        "the loss is not one number; take its mean before backward()",
    ),
    _Cause(
        lambda at: at.says("does not require grad"),
        "the loss has no gradient; look for detach(), no_grad() or requires_grad_(False)",
    ),
)


@contextmanager
def explained() -> Generator[None]:
    """Turns whatever is raised inside into a TraceError that names line, cause and remedy.

    Raises:
        TraceError: something was raised; errors of labtrail pass as they are.
    """
    try:
        yield
    except LabtrailError:
        raise
    except Exception as error:
        raise TraceError(_message(error)) from error


def _message(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = _place(frames)
    failed = Failed(error, str(getattr(error, "func", "")), [frame.filename for frame in frames])
    cause = next((cause.says for cause in _CAUSES if cause.applies(failed)), None)
    return f"{place}{cause or _first_line(error)}"


def _first_line(error: Exception) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"the step cannot be traced: {type(error).__name__}: {line}"


def _place(frames: traceback.StackSummary) -> str:
    """``file:12: `code`: ``, the innermost line that is the user's; empty if there is none."""
    users = [frame for frame in frames if is_users(frame.filename)]
    return f"{users[-1].filename}:{users[-1].lineno}: `{users[-1].line}`: " if users else ""


def is_users(file: str) -> bool:
    """Whether a file belongs to neither torch nor Python nor the profiler nor the platform."""
    if file.startswith(_PYTHON):
        return "site-packages" in file and not file.startswith(_TORCH)
    return not file.startswith((_TORCH, *_OWN, "<"))


def refuse_repeated_randomness(frame: FrameType | None) -> None:
    """
    Raises:
        TraceError: a forward pass is repeated within the backward pass; eagerly its dropout is that of the first time,
            in a graph it would be drawn again.
    """
    while frame is not None:
        if frame.f_code.co_filename.endswith("/torch/utils/checkpoint.py"):
            raise TraceError(
                "torch.utils.checkpoint repeats a forward pass with random numbers, which a graph would draw again; "
                "trace the step without checkpointing"
            )
        frame = frame.f_back

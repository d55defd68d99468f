"""Why a step could not be traced: the user's own line, the cause, and what to write instead."""

import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

import labtrail
from labtrail.errors import LabtrailError
from projects.profiler import compat
from projects.profiler.step import TraceError

_TORCH = str(Path(torch.__file__).parent)
# Lines of the profiler and of the platform are nobody's mistake.
_OWN = (str(Path(__file__).parent), str(Path(labtrail.__file__).parent))
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
        return any(one in str(self.error) for one in words)


class _Cause(NamedTuple):
    applies: Callable[[Failed], bool]
    says: str


# In order: the first that applies is told.
_CAUSES = (
    _Cause(
        lambda at: at.op == _READS_A_NUMBER and at.within("/optim/"),
        "the optimizer reads its step count with .item(); make it with fused=True (or capturable=True on a GPU)",
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
        lambda at: isinstance(at.error, compat.DATA_DEPENDENT) and at.op != _READS_A_NUMBER,
        "the shape depends on the data (boolean index, nonzero, unique); use torch.where or multiply by a mask",
    ),
    _Cause(
        lambda at: at.op == _READS_A_NUMBER,
        "a number is read out of a tensor (.item(), float(), tolist(), if), so the step depends on the data; keep it "
        "a tensor (torch.where), or move the line out of the step",
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
    """Whether a file belongs to neither torch nor the profiler nor the platform."""
    return not file.startswith((_TORCH, *_OWN, "<"))

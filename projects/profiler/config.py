"""The configs of the profiler tasks."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

import labtrail as lt
from labtrail.config import listed
from labtrail.store import contract

# What a user of torch can ask for: the ends, and between them in steps at which its answers change.
BUDGETS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
OptimizerName = Literal["adamw", "adam", "sgd", "momentum", "adagrad", "rmsprop"]


def _positive(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError("expected different numbers of at least 1")
    return tuple(sorted(sizes))


def _shares(budgets: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 <= budget <= 1 for budget in budgets):
        raise ValueError("expected numbers between 0 and 1")
    return tuple(sorted(set(budgets)))


class StepConfig(lt.Config):
    """A training step of a model, and how it is timed."""

    model: str = "tiny"
    """resnet152, bert-base, gpt2 and others, or a task of this repository; a wrong name lists all"""
    settings: dict[str, Any] = Field(default_factory=dict)
    """values of the architecture's config (num_hidden_layers: 2), or of the task's (model.fusion: late)"""
    sequence_length: int = Field(default=128, ge=2)
    """tokens of a sample, for models of tokens"""
    image_size: int = Field(default=224, ge=32)
    """pixels along a side, for models of images"""
    optimizer: OptimizerName = "adamw"
    """what updates the weights; momentum is sgd with momentum 0.9"""
    clip_norm: float | None = Field(default=None, gt=0)
    """largest norm of the gradient; empty: not clipped"""
    iterations: int = Field(default=3, ge=1)
    """timed steps; figures are medians over them"""
    warmup: int = Field(default=1, ge=0)
    """steps before them that do not count"""


class ProfilerConfig(StepConfig):
    """What is profiled."""

    batch_sizes: Annotated[tuple[int, ...], BeforeValidator(listed), AfterValidator(_positive)] = (4, 8, 16)
    """samples of a step; each is profiled"""
    memory_limit_gib: float | None = Field(default=None, gt=0)
    """memory of the device, a line in the figures; a step above it is profiled by swapping; empty: none"""
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    """speed of swapping in 1e9 bytes a second each way; empty: measured (on a CPU: copying within its memory)"""


class RematConfig(StepConfig):
    """How much memory a step may need, and how a plan for that is found."""

    batch_size: int = Field(default=8, ge=1)
    """samples of a step"""
    memory: float = Field(default=0.5, gt=0)
    """up to 1 the share of the step's peak that may be needed, above 1 bytes"""
    times: Literal["a100", "h100", "v100", "measured"] = "a100"
    """what operators cost: the roofline of a GPU in float32, or as measured here"""
    solve_s: float = Field(default=10.0, gt=0)
    """seconds for the search at each target; plans only get better with more"""
    targets: int = Field(default=20, ge=2)
    """points of the frontier between the least memory and all of it"""
    batch_sizes: Annotated[tuple[int, ...], BeforeValidator(listed)] = ()
    """batch sizes of the figures over them; empty: half of batch_size, and batch_size"""
    torch_budgets: Annotated[tuple[float, ...], BeforeValidator(listed), AfterValidator(_shares)] = BUDGETS
    """activation memory budgets of torch that are judged beside it; empty: none"""


class CompareConfig(lt.Config):
    """Which runs are compared."""

    runs: str = contract.ALL
    """finished profiler runs: ids with commas, an MLflow filter, or 'all'"""

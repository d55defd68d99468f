"""The config of the profiler task."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from labtrail.config import TaskConfig, listed

OptimizerName = Literal["adamw", "adam", "sgd", "momentum", "adagrad", "rmsprop"]


def _positive(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError("expected different numbers of at least 1")
    return tuple(sorted(sizes))


class ProfilerConfig(TaskConfig):
    """What is profiled, and how often."""

    model: str = "tiny"
    """resnet152, bert-base, gpt2 and others, or a task of this repository; a wrong name lists all"""
    settings: dict[str, Any] = Field(default_factory=dict)
    """values of the architecture's config (num_hidden_layers: 2), or of the task's (model.fusion: late)"""
    batch_sizes: Annotated[tuple[int, ...], BeforeValidator(listed), AfterValidator(_positive)] = (4, 8, 16)
    """samples of a step; each is profiled"""
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
    memory_limit_gib: float | None = Field(default=None, gt=0)
    """memory of the device, a line in the figures; a step above it is profiled by swapping; empty: none"""
    bandwidth_gb_s: float | None = Field(default=None, gt=0)
    """speed of swapping in 1e9 bytes a second each way; empty: measured (on a CPU: copying within its memory)"""

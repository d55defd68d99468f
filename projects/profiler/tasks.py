"""The tasks of the profiler: one step, steps side by side, and the same step in less memory."""

from pathlib import Path

import labtrail as lt
from projects.profiler.config import CompareConfig, ProfilerConfig, RematConfig


def profile_title(config: ProfilerConfig) -> str:
    """Model and batch sizes: ``bert-base-b4-8-16``."""
    return f"{config.model}-b{'-'.join(map(str, config.batch_sizes))}"


def compare_title(config: CompareConfig) -> str:
    """How many profiles are compared: ``compare-3``."""
    return f"compare-{len(config.runs.split(','))}"


def remat_title(config: RematConfig) -> str:
    """Model, batch size and memory: ``bert-base-b8-0.5``."""
    return f"{config.model}-b{config.batch_size}-{config.memory:g}"


# Times and bytes of this machine.
_MEASURED = ("profile/", "step/", "time/", "remat/step_time_s", "remat/baseline_step_time_s", "remat/slowdown")

PROFILE = lt.Task(
    name="profiler",
    config=ProfilerConfig,
    function=lt.lazy("projects.profiler.measure:measure"),
    default=Path("configs/profiler/tiny.yaml"),
    resolve=lt.lazy("projects.profiler.measure:resolve"),
    title=profile_title,
    one_process=True,
    measured=_MEASURED,
)
COMPARE = lt.Task(
    name="profiler-compare",
    config=CompareConfig,
    function=lt.lazy("projects.profiler.analysis:compare"),
    default=Path("configs/profiler-compare/default.yaml"),
    resolve=lt.lazy("projects.profiler.analysis:resolve"),
    sources=lt.lazy("projects.profiler.analysis:sources"),
    title=compare_title,
    experiment="profiler",
    one_process=True,
    measured=_MEASURED,
)
REMAT = lt.Task(
    name="profiler-remat",
    config=RematConfig,
    function=lt.lazy("projects.profiler.remat:plan_and_run"),
    default=Path("configs/profiler-remat/tiny.yaml"),
    resolve=lt.lazy("projects.profiler.remat:resolve"),
    title=remat_title,
    experiment="profiler",
    one_process=True,
    measured=_MEASURED,
)
TASKS = (PROFILE, COMPARE, REMAT)

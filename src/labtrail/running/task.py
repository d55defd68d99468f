"""Task: a name, a config class, and a function from a frozen config to a stream of records."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from accelerate import Accelerator

from labtrail.config import Config
from labtrail.running.checkpoint import Checkpoint, Score
from labtrail.running.example import Example
from labtrail.running.record import DataSource, Record


def no_sources(_config: object) -> Sequence[DataSource]:
    """For tasks that read no data."""
    return ()


def nothing_missing(_config: object) -> bool:
    """For tasks whose results are all in their run."""
    return False


def unchanged(config: Config) -> Config:
    """For configs that name no other run."""
    return config


@dataclass(frozen=True)
class Task(Generic[Config]):
    """One kind of experiment.

    Attributes:
        name: of the task; also the default start of run names.
        config: its config class.
        function: yields Records; what it needs besides the config are device and checkpoint.
        default: the config file used when none is named.
        score: the metric that makes an epoch the best, and its direction.
        resolve: replaces names of other runs (``latest``, a filter) by ids, once, before anything else: what is
            logged and fingerprinted is the id.
        sources: checks the data and names it with its digests, before anything starts; bad data is refused here.
        missing: whether a result that lives outside the run is gone, so that finished work is done anew.
        title: a short, telling run name.
        example: (config, batch size) to one training step on made-up data; None where the task trains nothing.
        experiment: the MLflow experiment; empty: as the task.
    """

    name: str
    config: type[Config]
    function: Callable[[Config, Accelerator, Checkpoint], Generator[Record]]
    default: Path
    score: Score | None = None
    resolve: Callable[[Config], Config] = unchanged
    sources: Callable[[Config], Sequence[DataSource]] = no_sources
    missing: Callable[[Config], bool] = nothing_missing
    title: Callable[[Config], str] | None = None
    example: Callable[[Config, int], Example] | None = None
    experiment: str = ""

    def run_name(self, config: Config) -> str:
        """What the run is called in the UI."""
        return self.title(config) if self.title else f"{self.name}-s{config.seed}"

    @property
    def experiment_name(self) -> str:
        """Name of the MLflow experiment."""
        return self.experiment or self.name

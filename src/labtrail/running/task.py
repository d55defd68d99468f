"""Task: a name, a config class, and a function from a frozen config and a run to a stream of records.

Why: docs/decisions/007-measurements-are-runs.md
"""

import inspect
import typing
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal

from labtrail.config import Config, ConfigT
from labtrail.errors import ConfigError, LabtrailError
from labtrail.record import DataSource, Record, Score

if TYPE_CHECKING:
    from labtrail.running.example import Example
    from labtrail.running.run import Run

_DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {"highest": "maximize", "lowest": "minimize"}


def no_sources(_config: object) -> Sequence[DataSource]:
    """For tasks that read no data."""
    return ()


def nothing_missing(_config: object) -> bool:
    """For tasks whose results are all in their run."""
    return False


def unchanged(config: ConfigT) -> ConfigT:
    """For configs that name no other run."""
    return config


@dataclass(frozen=True)
class Task(Generic[ConfigT]):
    """One kind of experiment.

    Functions may be given as ``lazy("package.module:name")``: then the task can be described without importing them.

    Attributes:
        name: of the task; also the default start of run names.
        config: its config class.
        function: (config, run) to Records: yields one for each epoch or measurement.
        default: the config file used when none is named; None: the defaults of the config class.
        score: the metric that makes an epoch the best, and its direction.
        resolve: replaces names of other runs (``latest``, a filter) by ids, once, before anything else: what is
            logged and fingerprinted is the id.
        sources: checks the data and names it with its digests, before anything starts; bad data is refused here.
        missing: whether a result that lives outside the run is gone, so that finished work is done again.
        title: a short, telling run name.
        example: (config, batch size) to one training step on made-up data; None where the task trains nothing.
        experiment: the MLflow experiment; empty: as the task.
        one_process: whether several processes would only repeat its work; then they are refused.
        measured: beginnings of the names of metrics that are measured of the machine, times for instance: two runs of
            the same code differ in them, and they are not compared.
    """

    name: str
    config: type[ConfigT]
    function: "Callable[[ConfigT, Run], Iterable[Record]]"
    default: Path | None = None
    score: Score | None = None
    resolve: Callable[[ConfigT], ConfigT] = unchanged
    sources: Callable[[ConfigT], Sequence[DataSource]] = no_sources
    missing: Callable[[ConfigT], bool] = nothing_missing
    title: Callable[[ConfigT], str] | None = None
    example: "Callable[[ConfigT, int], Example] | None" = None
    experiment: str = ""
    one_process: bool = False
    measured: Sequence[str] = ()

    def run_name(self, config: ConfigT) -> str:
        """What the run is called in the UI."""
        return self.title(config) if self.title else f"{self.name}-s{config.seed}"

    def records(self, config: ConfigT, run: "Run") -> Generator[Record]:
        """Begins the task; its Records.

        Raises:
            LabtrailError: its function yields none.
        """
        records = self.function(config, run)
        if not isinstance(records, Generator):
            raise LabtrailError(
                f"task {self.name}: its function returned a {type(records).__name__}; it has to yield Records"
            )
        return records

    @property
    def experiment_name(self) -> str:
        """Name of the MLflow experiment."""
        return self.experiment or self.name


def task(
    *, name: str = "", score: str = "", best: Literal["highest", "lowest"] = "highest", **fields: Any
) -> Callable[[Callable[[Any, "Run"], Iterable[Record]]], Task[Any]]:
    """Makes a task of a function ``(config, run)`` that yields Records; its config class is read off the annotation.

    Args:
        name: of the task; empty: that of the function, with hyphens.
        score: metric that makes an epoch the best; empty: none is kept.
        best: which value of it is better.
        fields: further fields of ``Task``.

    Raises:
        ConfigError: the function's first parameter is not annotated with a config class.
    """

    def decorated(function: Callable[[Any, "Run"], Iterable[Record]]) -> Task[Any]:
        chosen = score_of(score, best)
        called = name or getattr(function, "__name__", "task").replace("_", "-")
        return Task(name=called, config=_config_class(function), function=function, score=chosen, **fields)

    return decorated


def score_of(metric: str, best: Literal["highest", "lowest"]) -> Score | None:
    """What makes an epoch the best; None where no metric is named."""
    return Score(metric, _DIRECTIONS[best]) if metric else None


def _config_class(function: Callable[..., Any]) -> type[Config]:
    first = next(iter(inspect.signature(function).parameters), "")
    # Only the first annotation is looked up: others may name what is imported for type checkers alone.
    annotation = inspect.get_annotations(function).get(first)
    if isinstance(annotation, str):
        annotation = typing.cast(Any, getattr(function, "__globals__", {})).get(annotation)
    if not (isinstance(annotation, type) and issubclass(annotation, Config)):
        called = getattr(function, "__qualname__", repr(function))
        raise ConfigError([f"task {called}: annotate its first parameter with a class below labtrail.Config"])
    return annotation

"""A run whose loop belongs to somebody else: ``with lt.start(config, task="name") as run: ... run.log(...)``.

The same claims, code, fences and honest ends as for a task that yields; what it gives up is that labtrail can begin it.

Why: docs/decisions/058-a-loop-of-ones-own.md
"""

import os
import sys
import time
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import create_model

from labtrail.config import Config, validated
from labtrail.errors import ConfigError, LabtrailError, Stopped
from labtrail.record import DataSource, Record
from labtrail.running.execute import Attempt, Options, Outcome, begin_attempt
from labtrail.running.processes import this_program
from labtrail.running.result import AlreadyDone, Result, result_of, tell_progress
from labtrail.running.run import Run
from labtrail.running.session import Session
from labtrail.running.start import stop_after
from labtrail.running.task import Task, score_of
from labtrail.running.work import work_of
from labtrail.store import contract


class Pushed:
    """One run that takes what its user's loop pushes to it; made by ``start``.

    Attributes:
        result: how it ended; there once the ``with`` block has been left.
    """

    result: Result

    def __init__(self, task: Task[Any], config: Config, options: Options, frame: types.FrameType) -> None:
        self._task, self._config, self._options, self._frame = task, config, options, frame
        self._attempt: Attempt | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        """Claims the work and begins it.

        Raises:
            AlreadyDone: the work has been done; ends a script with status 0.
            LabtrailError: it is refused, or a person has to decide; a script ends with that line, and status 2 or 3.
        """
        tell_progress()
        try:
            begun = begin_attempt(work_of(self._task, self._config), self._options)
        except LabtrailError as error:
            if _is_interactive():
                raise
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(error.exit_status) from error
        if isinstance(begun, Outcome):
            raise AlreadyDone(result_of(begun.run_id, begun.status))
        self._attempt = begun
        try:
            begun.begin()
        except BaseException as error:
            # The block is not entered, so that nobody leaves it: the run is ended here.
            self._end(error)
            raise
        self.run.watch.follow(self._frame)
        self.run.watch.__enter__()
        self._began = time.perf_counter()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> bool:
        self.run.watch.__exit__()
        del self._frame
        self.result = result_of(self._session.run_id, self._end(error))
        # It was asked to stop here.
        return isinstance(error, Stopped)

    def _end(self, error: BaseException | None) -> int:
        """Ends the run, and gives everything back; what goes wrong at a good end is how it has ended."""
        assert self._attempt is not None
        try:
            if error is not None:
                return self._attempt.end(error)
            try:
                self._session.finish()
                return self._attempt.end(None)
            except BaseException as late:
                self._attempt.end(late)
                raise
        finally:
            self._attempt.close()

    @property
    def _session(self) -> Session[Any]:
        assert self._attempt is not None
        return self._attempt.session

    @property
    def run(self) -> Run:
        """What a task that yields is given: ``restore``, ``epochs``, ``steps``, ``accelerator``, ``load_best``."""
        return self._session.run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "result":
            raise AttributeError(name)
        return getattr(self.run, name)

    def log(
        self, metrics: Mapping[str, float] | None = None, *, step: int, files: Mapping[str, Any] | None = None
    ) -> None:
        """Logs what was measured, and saves the state that it leaves if the progress has moved.

        Advance ``progress.epoch`` before it; in a loop over ``run.epochs`` that happens by itself.

        Args:
            metrics: name -> finite number (``train/loss``).
            step: epoch (counted from 0) or index of the measurement.
            files: artifact path -> content, as for ``Record``.

        Raises:
            MetricError: a value that is not a finite number; nothing of it is written.
            CheckpointError: the state cannot be written.
            Superseded: a later attempt has begun.
        """
        now = time.perf_counter()
        record = Record(step, dict(metrics or {}), dict(files or {}))
        self._session.log_and_checkpoint(record, now - self._began)
        self._options.watch(record)
        self._began = time.perf_counter()

    def save(self) -> None:
        """Saves the state if the progress has moved since the last save, without anything to log."""
        self.run.checkpoint.save(Record(0))


def start(
    config: Config | Mapping[str, Any],
    *,
    task: str,
    score: str = "",
    best: Literal["highest", "lowest"] = "highest",
    sources: Sequence[DataSource] = (),
    again: bool = False,
    keep: bool = False,
    tags: Mapping[str, str] | None = None,
) -> Pushed:
    """A run for a loop of one's own: use it in a ``with`` statement.

    with lt.start({"lr": 0.1, "epochs": 5}, task="digits") as run:
        for epoch in run.epochs(5, model, optimizer):
            run.log({"train/loss": train()}, step=epoch)

    Work that is done is not done again: then a script ends there, with status 0. A run that was killed is continued:
    ``run.epochs`` and ``run.restore`` begin where it stood. The code that counts is the function in which the call
    stands, or the whole script, with all that it reaches.

    Args:
        config: what decides the numbers: a config, or names and plain values, as ``vars(args)`` of argparse.
        task: name of the task and of its MLflow experiment.
        score: metric that makes an epoch the best; empty: none is kept.
        best: which value of it is better.
        sources: the data sets it reads, with their digests.
        again: run again although the work has been done.
        keep: let a run of other code count as done, or continue it.
        tags: further tags of the run.

    Raises:
        ConfigError: a value of the config is not plain.
    """
    frame = sys._getframe(1)
    asked = config if isinstance(config, Config) else _config_of(config, task)
    defined = Task(
        name=task,
        config=type(asked),
        function=_Place(frame),
        score=score_of(score, best),
        sources=_Given(sources),
    )
    reproduces = os.environ.get(contract.REPRODUCES_VARIABLE, "")
    options = Options(
        again=again,
        keep=keep,
        tags=dict(tags or {}),
        command=_command(),
        reproduces=reproduces,
        watch=stop_after(int(os.environ.get(contract.RECORDS_VARIABLE, "0")) if reproduces else 0),
    )
    return Pushed(defined, asked, options, frame)


class _Place:
    """The function in which a run is started, as the root of its code; a whole module outside of functions."""

    def __init__(self, frame: types.FrameType) -> None:
        self.__module__ = str(frame.f_globals.get("__name__", "__main__"))
        self.__qualname__ = frame.f_code.co_qualname.replace("<module>", "<lambda>")

    def __call__(self, *_: object) -> Any:
        raise ConfigError([f"{self.__module__}: labtrail cannot begin it; start its script"])


class _Given:
    """Data sets that were named when the run was started."""

    address = "labtrail.running.pushed:_Given"

    def __init__(self, sources: Sequence[DataSource]) -> None:
        self._sources = tuple(sources)

    def __call__(self, _config: object) -> Sequence[DataSource]:
        return self._sources


def _config_of(values: Mapping[str, Any], task: str) -> Config:
    """A config class of the values that a script has, whatever their names.

    Raises:
        ConfigError: a value is not plain.
    """
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    for name, value in plain.items():
        if not (isinstance(name, str) and name.isidentifier() and _is_plain(value)):
            raise ConfigError([f"config of {task}: {name}: expected a name and a plain value, found {value!r}"])
    fields: dict[str, Any] = {name: (Any, value) for name, value in plain.items() if name not in Config.model_fields}
    known = {name: value for name, value in plain.items() if name in Config.model_fields}
    return validated(create_model("GivenConfig", __base__=Config, **fields), known)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _is_interactive() -> bool:
    """Whether a person sits at a prompt or in a notebook, where an exception is better than the process's end."""
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _command() -> Sequence[str]:
    """Words after ``python`` that start this script again."""
    return [*this_program(), *sys.argv[1:], contract.WHOLE_COMMAND]

"""Study: Optuna asks, tells and prunes; every trial is a run of its own below the study's.

Workers are processes that share one storage. Each holds a lock while its trial runs, so that the trial of a worker
that died is seen by the others: it is asked for again, and its run continues from its checkpoint.

Why: docs/decisions/018-trials-hold-locks.md
"""

import logging
import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock, Timeout
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field, StringConstraints, model_validator

from labtrail import figures
from labtrail.config import Config, Section, fingerprint, load_config, text_of, to_yaml
from labtrail.errors import CodeError, LabtrailError, QueryError, Stopped
from labtrail.files import sha256_of, write_atomically
from labtrail.query.find import runs_tagged
from labtrail.query.query import Query
from labtrail.record import Record
from labtrail.running.code_policy import PresentCode, declare_same, difference, is_other
from labtrail.running.execute import Options, run_task
from labtrail.running.signals import Interrupted
from labtrail.running.task import Task
from labtrail.store import connection, contract, lab, locks
from labtrail.sweeps.round_code import Answer, Pin

_log = logging.getLogger("labtrail")

_ERROR = "error"
# Exit statuses above it tell a signal.
_SIGNALLED = 128
_RUN = "run_id"
_PLACE = "place"


class Range(Section):
    """Where one value may lie: between two ends, or among choices."""

    low: float | None = None
    """lower end"""
    high: float | None = None
    """upper end"""
    log: bool = False
    """searched on a logarithmic scale"""
    integer: bool = False
    """whole numbers only"""
    choices: tuple[bool | int | float | str, ...] = ()
    """instead of ends: the values to choose from"""

    @model_validator(mode="after")
    def _ends_or_choices(self) -> "Range":
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("expected low and high, or choices")
        if not self.choices and (self.low is None or self.high is None or self.low > self.high):
            raise ValueError("expected low and high, low first")
        if self.log and (self.low or 0) <= 0:
            raise ValueError("a logarithmic scale needs low > 0")
        return self

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if self.low is None or self.high is None:
            choices: Sequence[CategoricalChoiceType] = self.choices
            return CategoricalDistribution(choices)
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


class StudyConfig(Config):
    """A search."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """name of the study"""
    task: str
    """task that a trial runs"""
    config: Path
    """config file that trials start from"""
    values: dict[str, Any] = Field(default_factory=dict)
    """dotted key -> value, the same in every trial"""
    space: dict[str, Range] = Field(min_length=1)
    """dotted key -> where it is searched"""
    metric: str = "validation/accuracy"
    """what is optimised: the best value that a run's epochs reach"""
    direction: Literal["maximize", "minimize"] = "maximize"
    """which way is better"""
    trials: int = Field(default=20, ge=1)
    """trials that have to end"""
    sampler: Literal["tpe", "random"] = "tpe"
    """how values are chosen; a fixed grid is a campaign, not a study"""
    pruner: Literal["median", "none"] = "median"
    """median: a trial worse than the median of earlier ones at the same epoch is ended"""
    pruner_startup: int = Field(default=5, ge=0)
    """trials that are never pruned"""
    storage: str = ""
    """URL of a database (it is logged: keep passwords out of it); empty: a journal file beside the store"""

    @cached_property
    def full_name(self) -> str:
        """Name in the storage: another space or base is another study, more trials are the same one.

        Asked for the file once: an edit of the base makes another study of the next start, and none of this one.
        """
        identity = self.model_copy(update={"trials": 1, "storage": ""})
        return f"{self.name}-{fingerprint(identity, sha256_of(self.config))}"


def worker_config(config: StudyConfig, full_name: str) -> StudyConfig:
    """The config of a study that has begun, in a process that joins it: its name is known, whatever its base is now."""
    joined = config.model_copy()
    vars(joined)["full_name"] = full_name
    return joined


def folder_of(config: StudyConfig) -> Path:
    """Where a study's config, logs, base and code lie."""
    return lab.state_folder() / "studies" / config.full_name


def _base_of(config: StudyConfig) -> Path:
    """The base as it was when the study began: its name tells the content."""
    copy = folder_of(config) / "base.yaml"
    if not copy.is_file():
        write_atomically(copy, config.config.read_bytes())
    return copy


def judge_code(config: StudyConfig, task: Task[Any], pin: Pin, answer: Answer) -> None:
    """Asks once, when a study takes its code, what trials of other code are worth.

    Raises:
        CodeError: there are such trials, and nobody has said whether they count.
    """
    if pin.recorded:
        return
    client, present = connection.current_store(), PresentCode(task.name, pin.code)
    trials = runs_tagged(contract.STUDY, config.full_name)
    others = {run.tags.get(contract.CODE, ""): run for run in trials if is_other(client, run, present)}
    for run in others.values():
        if not answer.keep:
            raise CodeError(
                f"study {config.name} has trials of other code, run {run.run_id} for instance: "
                f"{difference(client, run, present)}; nothing was started: --keep counts them, another name begins anew"
            )
        declare_same(client, run, pin.code.digest)
    pin.record()


def open_study(config: StudyConfig, worker: int = 0) -> Study:
    """Creates the study, or opens it where it was left."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=config.pruner_startup),
        "none": optuna.pruners.NopPruner(),
    }
    study = optuna.create_study(
        study_name=config.full_name,
        storage=config.storage or _journal(config),
        pruner=pruners[config.pruner],
        direction=config.direction,
        load_if_exists=True,
    )
    # A worker that starts again must not ask again for what it has asked before.
    seed = (config.seed * 1009 + worker) * 100_003 + len(study.get_trials(deepcopy=False))
    study.sampler = samplers[config.sampler](seed=seed % 2**32)
    return study


def _journal(config: StudyConfig) -> JournalStorage:
    path = lab.state_folder() / "studies" / f"{config.full_name}.journal"
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


def work(config: StudyConfig, task: Task[Any], parent: str, worker: int) -> int:
    """Runs trials until the study has as many as it wants.

    Args:
        config: of the study.
        task: that trials run.
        parent: run id of the study.
        worker: number of this worker, for the sampler's seed.

    Returns:
        The number of trials that this worker ended.

    Raises:
        LabtrailError: what no other values would fix: a base config, data or teacher that is not there.
        Interrupted: this worker was asked to end; its trial is run again by whoever comes next.
    """
    study, count = open_study(config, worker), 0
    while True:
        with _next_trial(study, config) as trial:
            if trial is None:
                return count
            _run_trial(study, trial, config, task, parent)
            count += 1


@contextmanager
def _next_trial(study: optuna.Study, config: StudyConfig) -> Generator[optuna.Trial | None]:
    """A trial, locked as long as it runs; None if the study needs no more."""
    lock = None
    with locks.locked(f"study-{config.full_name}"):
        reclaim(study, config)
        trial = None
        if wants_more(study, config):
            trial = study.ask({key: dimension.distribution for key, dimension in config.space.items()})
            lock = _trial_lock(config, trial.number)
            lock.acquire()
            trial.set_user_attr(_PLACE, locks.place())
    try:
        yield trial
    finally:
        if lock is not None:
            lock.release()


def wants_more(study: optuna.Study, config: StudyConfig) -> bool:
    """Whether there is a trial to begin: one that waits, or one more than have ended or are running."""
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    waiting, running = states.count(TrialState.WAITING), states.count(TrialState.RUNNING)
    return bool(waiting) or ended_trials(study) + running < config.trials


def reclaim(study: optuna.Study, config: StudyConfig) -> None:
    """Asks again for the trials of this folder whose worker is gone; locks do not reach any further."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in (lost for lost in running if lost.user_attrs.get(_PLACE, locks.place()) == locks.place()):
        lock = _trial_lock(config, trial.number)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        study.enqueue_trial(trial.params, user_attrs={"continues": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)
        lock.release()
        _log.info("trial %d lost its worker; it is run again and its run continues", trial.number)


def _trial_lock(config: StudyConfig, number: int) -> FileLock:
    return locks.lock_of(f"trial-{config.full_name}-{number}")


def ended_trials(study: optuna.Study) -> int:
    """Trials with a result, and those whose own run failed; a lost worker's trial is none of them."""
    return sum(
        trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        or (trial.state == TrialState.FAIL and _ERROR in trial.user_attrs)
        for trial in study.get_trials(deepcopy=False)
    )


def _run_trial(study: optuna.Study, trial: optuna.Trial, config: StudyConfig, task: Task[Any], parent: str) -> None:
    config_of_trial = trial_config(config, task, trial.params, _base_of(config))
    tags = {contract.PARENT: parent, contract.STUDY: config.full_name, contract.TRIAL: str(trial.number)}
    pruned = ""

    def watch(record: Record) -> None:
        nonlocal pruned
        if config.metric in record.metrics:
            trial.report(record.metrics[config.metric], record.step)
            if trial.should_prune():
                pruned = f"pruned at step {record.step}"
                raise Stopped(pruned)

    try:
        outcome = run_task(task, config_of_trial, Options(watch=watch, tags=tags))
    except LabtrailError:
        # Refused before it began: so would every other trial be.
        study.tell(trial, state=TrialState.FAIL)
        raise
    if outcome.status > _SIGNALLED:
        # Left open: the run is KILLED and resumable, and the trial is reclaimed.
        raise Interrupted(outcome.status - _SIGNALLED)
    trial.set_user_attr(_RUN, outcome.run_id)
    if pruned:
        study.tell(trial, state=TrialState.PRUNED)
    elif outcome.status != 0:
        trial.set_user_attr(_ERROR, f"run {outcome.run_id} failed")
        study.tell(trial, state=TrialState.FAIL)
        _log.warning("trial %d failed: run %s", trial.number, outcome.run_id)
    else:
        try:
            study.tell(trial, best_value(outcome.run_id, config))
        except QueryError:
            study.tell(trial, state=TrialState.FAIL)
            raise


def trial_config(config: StudyConfig, task: Task[Any], params: Mapping[str, Any], base: Path | None = None) -> Any:
    """The config of a trial: the base, the study's values, and what was asked.

    Args:
        config, task: of the study.
        params: dotted key -> value.
        base: the base as it was when the study began; None: as it is.
    """
    overrides = {**config.values, **params}
    return load_config(task.config, base or config.config, [(key, text_of(value)) for key, value in overrides.items()])


def best_value(run_id: str, config: StudyConfig) -> float:
    """The best value of the metric in a run's history.

    Raises:
        QueryError: the run has no such metric.
    """
    values = Query().only([run_id]).history([config.metric])["value"]
    return float(values.max() if config.direction == "maximize" else values.min())


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """A row per trial: number, state, value, run_id, seconds, and its values."""
    return pd.DataFrame([_row(trial) for trial in study.get_trials(deepcopy=False)])


def _row(trial: FrozenTrial) -> dict[str, Any]:
    seconds = trial.duration.total_seconds() if trial.duration else math.nan
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": math.nan if trial.value is None else trial.value,
        "run_id": trial.user_attrs.get(_RUN, ""),
        "seconds": seconds,
        **trial.params,
    }


def outcome_files(study: optuna.Study, config: StudyConfig, task: Task[Any]) -> dict[str, Any]:
    """Table of trials, slice and importance plots, and the best config as YAML that runs it again."""
    table = trial_table(study)
    complete = table[table["state"] == "complete"]
    files: dict[str, Any] = {"tables/trials.csv": table}
    if not len(complete):
        return files
    files["best.yaml"] = to_yaml(trial_config(config, task, study.best_params, _base_of(config)))
    logs = {key: dimension.log for key, dimension in config.space.items()}
    files["figures/slices.png"] = figures.slices(complete, "value", logs, config.metric, f"Study {config.name}")
    importance = _importance(study)
    if importance:
        files["figures/importance.png"] = figures.bars(
            importance, "share of the variance of the result", f"Study {config.name}: what matters (fANOVA)"
        )
    return files


def _importance(study: optuna.Study) -> dict[str, float]:
    """Importance of each searched key (fANOVA); empty where too few trials, or equal ones, tell nothing."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < 4 or np.ptp(np.array(values, dtype=float)) == 0:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))

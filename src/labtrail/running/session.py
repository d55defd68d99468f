"""Session: one attempt at one run; it alone opens the run's writer, fence and checkpoint, and takes its records.

Why: docs/decisions/042-one-session.md
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic

from accelerate import Accelerator

from labtrail.config import ConfigT
from labtrail.errors import Superseded
from labtrail.figures import learning_curves
from labtrail.query import scores
from labtrail.query.query import Query
from labtrail.record import Record
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.code_policy import segments
from labtrail.running.fence import Fence
from labtrail.running.identity import Identity
from labtrail.running.provenance.facts import peak_memory_mib
from labtrail.running.provenance.source import Source, take
from labtrail.running.run import Run
from labtrail.running.task import Task
from labtrail.running.watch import Watch
from labtrail.running.writer import RunWriter, Status, checked
from labtrail.store import contract, lab

_log = logging.getLogger("labtrail")

_CURVES = ("train/", "validation/")
_MOST_RESULTS = 8


class Session(Generic[ConfigT]):
    """One attempt at one run; every rank has one, and the main process writes.

    Attributes:
        config: what the run runs with.
        identity: of its work.
        run: what its task is given; there once the session has begun.
        metrics: the last value of each metric.
        source: that was kept, on the main process once the session has begun.
    """

    run: Run
    source: Source | None = None

    def __init__(
        self,
        task: Task[ConfigT],
        config: ConfigT,
        identity: Identity,
        run_id: str,
        accelerator: Accelerator,
        attempt: str,
        command: Sequence[str] = (),
    ) -> None:
        """Opens the run and shuts earlier attempts out; nothing of it is written yet.

        Args:
            task: whose run it is.
            config: resolved.
            identity: of the work.
            run_id: of the run, which has been claimed.
            accelerator: knows processes and device.
            attempt: a word that no other process at work on this run has; the same on all ranks.
            command: words after ``python`` that start the task, without its options; empty: ``labtrail run TASK``.

        Raises:
            Superseded: a later attempt has begun.
        """
        self.config, self.identity = config, identity
        self.metrics: dict[str, float] = {}
        self._score, self._accelerator, self._attempt = task.score, accelerator, attempt
        self._command = tuple(command) or ("-m", "labtrail.console", "run", task.name)
        self._writer, self._fence = RunWriter(run_id), Fence(run_id)
        self._checkpoint: Checkpoint | None = None
        self._tags_before: Mapping[str, str] = {}
        self._codes = ""
        if accelerator.is_main_process:
            self._fence.activate()

    @property
    def run_id(self) -> str:
        """Of the MLflow run."""
        return self._writer.run_id

    def begin(self, source: Source | None = None) -> Run:
        """Writes what the run is of, and opens its training state.

        Args:
            source: that this process has taken for a run of the same code; None: it is taken now.
        """
        writer = self._writer
        if self._accelerator.is_main_process:
            self.source = source = source or take(self.identity.code, lab.working_folder(), lab.state_folder())
            self.identity = replace(self.identity, tags={**self.identity.tags, **source.tags})
            self._tags_before = writer.start(self.identity)
            self._codes = self._tags_before.get(contract.CODES, "")
            writer.keep_source(source, self.identity.code, self._command)
            writer.download(contract.CHECKPOINTS)
        self._checkpoint = Checkpoint(
            writer.folder / contract.CHECKPOINTS,
            self._accelerator,
            score=self._score,
            config=self.config.model_dump(mode="json"),
            upload=writer.upload if writer.remote else None,
            permit=self._fence.check,
            attempt=self._attempt,
            settings=self.config.checkpoint,
        )
        # The ranks see the same; one of them says it.
        watch = Watch() if self._accelerator.is_main_process else Watch(lambda _finding: None)
        self.run = Run(self.run_id, self._accelerator, self._checkpoint, watch)
        return self.run

    def log_and_checkpoint(self, record: Record, seconds: float) -> None:
        """Logs a record and saves the state that it leaves.

        Args:
            record: what was measured.
            seconds: how long it took.

        Raises:
            MetricError: a value that is not a finite number; nothing of the record is written.
            Superseded: a later attempt has begun.
        """
        assert self._checkpoint is not None
        self.run.record_taken()
        system = {"system/epoch_seconds": seconds, "system/memory_mib": peak_memory_mib()}
        extra = {**self._checkpoint.note_best(record), **system}
        checked({**record.metrics, **extra})
        if self._accelerator.is_main_process:
            self._note_codes(record.step)
            self._checkpoint.save(record, first=partial(self._writer.log, record, extra))
            if record.metrics:
                _log.info("%s", _one_line(record))
        else:
            self._checkpoint.save(record)
        self.metrics |= record.metrics

    def _note_codes(self, epoch: int) -> None:
        """Where another code goes on with a run, its first record says from which epoch."""
        before, self._tags_before = self._tags_before, {}
        if noted := segments(before, self.identity.code, epoch):
            self._codes = noted
            self._writer.note_codes(noted)

    def finish(self) -> None:
        """Makes the training state durable at the end of the task."""
        assert self._checkpoint is not None
        self._checkpoint.finish()

    def write_summary(self) -> None:
        """The last words of a run that has done its work: a paragraph on its page, and its learning curves.

        Raises:
            Superseded: a later attempt has begun.
        """
        self._fence.check()
        self._writer.describe(_description(self.identity, self.metrics, self._codes))
        history = Query().only([self.run_id]).ended("RUNNING").history()
        per_step = history.groupby("metric")["step"].nunique()
        curves = [name for name in per_step[per_step > 1].index if name.startswith(_CURVES)]
        if curves:
            figure = learning_curves(history[history["metric"].isin(curves)], self.identity.name)
            self._writer.store_file("figures/curves.png", figure)

    def flush(self) -> None:
        """Waits until the last state is durable; a failure is only reported, since the run has to be closed."""
        try:
            if self._checkpoint is not None:
                self._checkpoint.flush()
        except Exception as error:
            _log.error("while ending: %s: %s", type(error).__name__, error)

    def upload_last(self) -> None:
        """Brings the newest whole state to the artifact store, where that is elsewhere."""
        if self._checkpoint is not None:
            self._checkpoint.upload_last()

    def end(self, status: Status, reason: str = "") -> None:
        """Closes the run, unless a later attempt has begun: then it is that one's to close."""
        try:
            self._fence.check()
        except Superseded as error:
            _log.warning("%s", error)
            return
        self._writer.end(status, reason)
        _log.info("run %s (%s) %s%s", self.run_id, self.identity.name, status, f": {reason}" if reason else "")


def _one_line(record: Record) -> str:
    values = "  ".join(f"{name} {value:.4g}" for name, value in record.metrics.items())
    return f"step {record.step}  {values}"


def _description(identity: Identity, metrics: Mapping[str, float], codes: str) -> str:
    """What was run, on what and with which result, in one paragraph."""
    data = "; ".join(
        f"{source.context}: {source.name} ({', '.join(f'{k} {v}' for k, v in source.profile.items())})"
        for source in identity.sources
    )
    score = scores.score_from_tags([identity.tags.get(contract.SCORE)])
    names = scores.headline(sorted(metrics), score)[:_MOST_RESULTS]
    results = ", ".join(f"{name} {metrics[name]:.4g}" for name in names)
    device = identity.tags.get(contract.DEVICE, "an unknown device")
    parts = [f"Task `{identity.task}`, {identity.name}, on {device}."]
    parts += [f"Data: {data}."] if data else []
    parts += [f"Result: {results}."] if results else []
    return " ".join([*parts, *_about_code(identity.tags, codes)])


def _about_code(tags: Mapping[str, str], codes: str) -> Iterator[str]:
    """By which code it was made, and what was kept of that."""
    if code := tags.get(contract.CODE):
        commit = tags.get(contract.GIT_COMMIT, "")[:9]
        changes = " and changes" if tags.get(contract.GIT_DIRTY) == "true" else ""
        where = f" (commit {commit}{changes})" if commit else ""
        yield f"Code: {code}{where}; its source is {tags.get(contract.SOURCE_KEPT, 'not kept')}."
    if codes:
        parts = ", ".join(f"{digest} from epoch {epoch}" for epoch, digest in json.loads(codes))
        yield f"**Several codes** have computed it: {parts}."

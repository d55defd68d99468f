"""Run: the one writer to MLflow. It claims its work, logs records and always ends honestly."""

import json
import math
import numbers
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from labtrail.config import flatten, to_yaml
from labtrail.errors import ClaimError, MetricError
from labtrail.files import encode, link_or_copy, remove, write_atomically
from labtrail.record import DataSource, Record
from labtrail.running.identity import Identity
from labtrail.running.provenance.code import CodeDigest
from labtrail.running.provenance.machine import environment, requirements
from labtrail.running.provenance.source import FACTS, Source, folder_of
from labtrail.store import connection, contract, lab, locks

_METRICS_PER_CALL = 1000
_LONGEST_DIGEST = 36
LONGEST_REASON = 1000
_DATASET_ATTEMPTS = 4
# Names that MLflow invents (bold-ape-12) give way to telling ones; names that people gave stay.
_INVENTED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")

Status = Literal["FINISHED", "FAILED", "KILLED"]


class RunWriter:
    """One MLflow run, written by one process.

    Attributes:
        run_id: MLflow's id.
        folder: where artifacts are written: the artifact store itself when it is a local folder,
            otherwise a working folder whose files are uploaded.
    """

    def __init__(self, run_id: str, client: MlflowClient | None = None) -> None:
        self.run_id = run_id
        self._client = client or connection.current_store()
        local = connection.local_path(str(self._client.get_run(run_id).info.artifact_uri))
        self._remote = local is None
        self.folder = local or lab.state_folder() / "runs" / run_id
        self._written: dict[str, dict[int, float]] = {}
        self._attempt = 1
        self._ended = False

    @property
    def remote(self) -> bool:
        """Whether artifacts must be uploaded, because the artifact store is not a local folder."""
        return self._remote

    def start(self, identity: Identity) -> Mapping[str, str]:
        """Writes what the run is of: params, tags, data sets, config and code; its status becomes RUNNING.

        Returns:
            The tags that it had before.
        """
        before = self._client.get_run(self.run_id)
        self._attempt = attempts = int(before.data.tags.get(contract.ATTEMPTS, 0)) + 1
        self._written = {
            key: {point.step: point.value for point in self._client.get_metric_history(self.run_id, key)}
            for key in before.data.metrics
        }
        if before.info.run_name is None or _INVENTED_NAME.fullmatch(before.info.run_name):
            self._client.update_run(self.run_id, name=identity.name)
        if attempts == 1:
            self._log_inputs([_dataset(source) for source in identity.sources])
            self.store_file(contract.CONFIG_FILE, to_yaml(identity.config))
        if identity.code.definitions and before.data.tags.get(contract.CODE) != identity.code.digest:
            self.store_file(contract.code_file(identity.code.digest), json.dumps(identity.code.to_json()).encode())
        tags = {contract.TASK: identity.task, contract.ATTEMPTS: str(attempts), **identity.tags}
        tags |= locks.whereabouts()
        if read := sorted({source.run_id for source in identity.sources if source.run_id}):
            tags[contract.READS] = " ".join(read)
        commits = [before.data.tags.get(contract.GIT_COMMIT, ""), tags.get(contract.GIT_COMMIT, "")]
        if all(commits) and not commits[0].endswith(commits[1]):
            # Epochs of one run that were computed by two versions of the code: both are named.
            tags[contract.GIT_COMMIT] = " ".join(commits)
        params = {f"{contract.CONFIG_PREFIX}{key}": str(value) for key, value in flatten(identity.config).items()}
        self._client.log_batch(
            self.run_id,
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        stale = {name for name in before.data.tags if name.startswith(contract.SCHEDULER_PREFIX)} - set(tags)
        stale -= {contract.SUBMISSIONS, contract.PROGRESS}
        for name in ({contract.STATUS_REASON, contract.ENDED, contract.EXIT_STATUS} | stale) & set(before.data.tags):
            self._client.delete_tag(self.run_id, name)
        self._client.update_run(self.run_id, status="RUNNING")
        return before.data.tags

    def keep_source(self, source: Source, code: CodeDigest, command: Sequence[str]) -> None:
        """Stores what this attempt runs from and on: its source, packages and machine.

        Args:
            source: that was taken when the attempt began; call after ``start``.
            code: that the task reaches.
            command: words after ``python`` that start the task, without its options.
        """
        folder = contract.source_folder(self._attempt)
        facts = environment()
        kept = {**source.to_json(), "code": code.digest, "rule": code.rule, "roots": code.roots, "command": command}
        contents = {
            FACTS: json.dumps(kept, indent=1),
            "environment.json": json.dumps(facts, indent=1),
            "requirements.txt": requirements(facts["packages"]),
        }
        for name, content in contents.items():
            write_atomically(self.folder / folder / name, content.encode())
        if source.digest:
            for path in folder_of(lab.state_folder(), source.digest).iterdir():
                if path.name != FACTS:
                    link_or_copy(path, self.folder / folder / path.name)
        self.upload(self.folder / folder)

    def note_codes(self, segments: str) -> None:
        """Says which epochs were computed by which code."""
        self._client.set_tag(self.run_id, contract.CODES, segments)

    def _log_inputs(self, datasets: list[DatasetInput]) -> None:
        """Links the data sets; runs that bring the same new one at once collide in MLflow, and the later repeats."""
        for left in reversed(range(_DATASET_ATTEMPTS)):
            try:
                self._client.log_inputs(self.run_id, datasets)
                return
            except MlflowException as error:
                if not left or "IntegrityError" not in str(error):
                    raise

    def log(self, record: Record, extra: Mapping[str, float] | None = None) -> None:
        """Writes a record's metrics in one batch, then its files.

        A point that an earlier attempt has already written with the same value is not repeated.

        Raises:
            MetricError: a value that is not a finite number; nothing of the record is written.
        """
        values = checked({**record.metrics, **(extra or {})})
        now = int(time.time() * 1000)
        points = [
            Metric(name, value, now, record.step)
            for name, value in values.items()
            if self._written.get(name, {}).get(record.step) != value
        ]
        for start in range(0, len(points), _METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=points[start : start + _METRICS_PER_CALL])
        for name, content in record.files.items():
            self.store_file(name, content)

    def store_file(self, name: str, content: Any) -> None:
        """Stores one artifact under ``name``; the content is as in ``Record.files``."""
        write_atomically(self.folder / name, encode(name, content))
        self.upload(self.folder / name)

    def upload(self, path: Path) -> None:
        """Copies a file or folder of ``folder`` to the artifact store, where that is elsewhere."""
        if not self._remote:
            return
        relative = path.relative_to(self.folder)
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), relative.as_posix())
        else:
            parent = relative.parent.as_posix()
            self._client.log_artifact(self.run_id, str(path), None if parent == "." else parent)

    def download(self, name: str) -> None:
        """Brings an artifact folder back into ``folder`` if the store has it and the local copy is gone."""
        if not self._remote or (self.folder / name).exists():
            return
        if self._client.list_artifacts(self.run_id, name):
            arriving = self.folder / "arriving"
            remove(arriving)
            arriving.mkdir(parents=True)
            self._client.download_artifacts(self.run_id, name, str(arriving))
            (arriving / name).rename(self.folder / name)
            remove(arriving)

    def describe(self, text: str) -> None:
        """The paragraph on top of the run's page."""
        self._client.set_tag(self.run_id, contract.NOTE, text)

    def end(self, status: Status, reason: str = "") -> None:
        """Closes the run; only the first call counts.

        Args:
            status: FINISHED only at the task's real end.
            reason: why it ended otherwise; kept in a tag, since ``mlflow run`` overwrites KILLED.
        """
        if self._ended:
            return
        if reason:
            self._client.set_tag(self.run_id, contract.STATUS_REASON, f"{status}: {reason}"[:LONGEST_REASON])
        self._client.set_tag(self.run_id, contract.ENDED, status)
        self._client.set_terminated(self.run_id, status)
        self._ended = True
        if self._remote and status == "FINISHED":
            remove(self.folder)


def register(run_id: str, name: str) -> str:
    """Makes a run's best weights a version of a registered model, and gives it the alias of the newest.

    A run that is a version already keeps it.

    Args:
        run_id: a finished run.
        name: of the model; created if there is none.

    Returns:
        The version.

    Raises:
        ClaimError: the run kept no best weights.
    """
    client = connection.current_store()
    run = client.get_run(run_id)
    if not any(
        artifact.path == contract.BEST_WEIGHTS for artifact in client.list_artifacts(run_id, contract.CHECKPOINTS)
    ):
        raise ClaimError(f"register: run {run_id} has no {contract.BEST_WEIGHTS}; its task keeps no best weights")
    with locks.locked("register"):
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        versions = client.search_model_versions(f"name = '{name}'")
        version = next((version for version in versions if version.run_id == run_id), None)
        if version is None:
            source = f"{run.info.artifact_uri}/{contract.CHECKPOINTS}"
            version = client.create_model_version(name, source, run_id=run_id)
        client.set_registered_model_alias(name, contract.NEWEST, version.version)
    return str(version.version)


def _dataset(source: DataSource) -> DatasetInput:
    profile = {"sha256": source.digest, **source.profile}
    dataset = Dataset(
        name=source.name,
        digest=source.digest[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": source.location}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", source.context)])


def checked(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as floats.

    Raises:
        MetricError: a value that is not a finite number; names it.
    """
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise MetricError(f"metric {name}: expected a finite number, found {value!r}")
    return {name: float(value) for name, value in metrics.items()}

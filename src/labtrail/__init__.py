"""labtrail: a task is a function from a frozen config to a stream of records; the platform records.

What a task author needs stands here, and is imported when it is first used: ``import labtrail as lt``. Modules below
are private, but for ``labtrail.statistics`` and ``labtrail.figures``.

Why: docs/decisions/041-one-lazy-face.md
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtrail.config import Compute as Compute
    from labtrail.config import Config as Config
    from labtrail.config import Integers as Integers
    from labtrail.config import Neutral as Neutral
    from labtrail.config import Remat as Remat
    from labtrail.config import Section as Section
    from labtrail.config import Text as Text
    from labtrail.config import Words as Words
    from labtrail.config import fingerprint as fingerprint
    from labtrail.config import load_config as load_config
    from labtrail.errors import CheckpointError as CheckpointError
    from labtrail.errors import ClaimError as ClaimError
    from labtrail.errors import ConfigError as ConfigError
    from labtrail.errors import DataError as DataError
    from labtrail.errors import LabtrailError as LabtrailError
    from labtrail.errors import LaunchError as LaunchError
    from labtrail.errors import MetricError as MetricError
    from labtrail.errors import QueryError as QueryError
    from labtrail.files import replaced_folder as replaced_folder
    from labtrail.files import sha256_of as sha256_of
    from labtrail.files import write_atomically as write_atomically
    from labtrail.query.find import artifact as artifact
    from labtrail.query.find import artifact_names as artifact_names
    from labtrail.query.find import artifact_source as artifact_source
    from labtrail.query.find import data_digests as data_digests
    from labtrail.query.find import find_run as find_run
    from labtrail.query.find import find_runs as find_runs
    from labtrail.query.find import model_version as model_version
    from labtrail.query.find import run_config as run_config
    from labtrail.query.frames import group_names as group_names
    from labtrail.query.frames import grouped as grouped
    from labtrail.query.frames import newest_of_each as newest_of_each
    from labtrail.query.frames import over_seeds as over_seeds
    from labtrail.query.frames import paired_differences as paired_differences
    from labtrail.query.frames import varying as varying
    from labtrail.query.query import Query as Query
    from labtrail.record import DataSource as DataSource
    from labtrail.record import Record as Record
    from labtrail.record import Score as Score
    from labtrail.record import named as named
    from labtrail.running.batches import ShuffledSampler as ShuffledSampler
    from labtrail.running.call import run as run
    from labtrail.running.checkpoint import load_portable as load_portable
    from labtrail.running.cli import run_tasks as run_tasks
    from labtrail.running.code_fingerprint import code_fingerprint as code_fingerprint
    from labtrail.running.compiling import compile_in_place as compile_in_place
    from labtrail.running.example import Example as Example
    from labtrail.running.execute import Options as Options
    from labtrail.running.execute import run_task as run_task
    from labtrail.running.lazy import lazy as lazy
    from labtrail.running.members import Members as Members
    from labtrail.running.progress import Progress as Progress
    from labtrail.running.pushed import start as start
    from labtrail.running.registry import known_tasks as known_tasks
    from labtrail.running.registry import task_named as task_named
    from labtrail.running.remat import LeanBackward as LeanBackward
    from labtrail.running.remat import lean_backward as lean_backward
    from labtrail.running.result import AlreadyDone as AlreadyDone
    from labtrail.running.result import Result as Result
    from labtrail.running.run import Run as Run
    from labtrail.running.seeding import reseed as reseed
    from labtrail.running.task import Task as Task
    from labtrail.running.task import task as task
    from labtrail.running.updater import Updater as Updater
    from labtrail.store.fetch import Asset as Asset
    from labtrail.store.fetch import DataSet as DataSet

__version__ = "0.1.0"

# Name -> module that has it.
_PUBLIC = {
    "AlreadyDone": "labtrail.running.result",
    "Asset": "labtrail.store.fetch",
    "CheckpointError": "labtrail.errors",
    "ClaimError": "labtrail.errors",
    "Compute": "labtrail.config",
    "Config": "labtrail.config",
    "ConfigError": "labtrail.errors",
    "DataError": "labtrail.errors",
    "DataSet": "labtrail.store.fetch",
    "DataSource": "labtrail.record",
    "Example": "labtrail.running.example",
    "Integers": "labtrail.config",
    "LabtrailError": "labtrail.errors",
    "LaunchError": "labtrail.errors",
    "LeanBackward": "labtrail.running.remat",
    "Members": "labtrail.running.members",
    "MetricError": "labtrail.errors",
    "Neutral": "labtrail.config",
    "Options": "labtrail.running.execute",
    "Progress": "labtrail.running.progress",
    "Query": "labtrail.query.query",
    "QueryError": "labtrail.errors",
    "Record": "labtrail.record",
    "Remat": "labtrail.config",
    "Result": "labtrail.running.result",
    "Run": "labtrail.running.run",
    "Score": "labtrail.record",
    "Section": "labtrail.config",
    "ShuffledSampler": "labtrail.running.batches",
    "Task": "labtrail.running.task",
    "Text": "labtrail.config",
    "Updater": "labtrail.running.updater",
    "Words": "labtrail.config",
    "artifact": "labtrail.query.find",
    "artifact_names": "labtrail.query.find",
    "artifact_source": "labtrail.query.find",
    "code_fingerprint": "labtrail.running.code_fingerprint",
    "compile_in_place": "labtrail.running.compiling",
    "data_digests": "labtrail.query.find",
    "find_run": "labtrail.query.find",
    "find_runs": "labtrail.query.find",
    "fingerprint": "labtrail.config",
    "group_names": "labtrail.query.frames",
    "grouped": "labtrail.query.frames",
    "known_tasks": "labtrail.running.registry",
    "lazy": "labtrail.running.lazy",
    "lean_backward": "labtrail.running.remat",
    "load_config": "labtrail.config",
    "load_portable": "labtrail.running.checkpoint",
    "model_version": "labtrail.query.find",
    "named": "labtrail.record",
    "newest_of_each": "labtrail.query.frames",
    "over_seeds": "labtrail.query.frames",
    "paired_differences": "labtrail.query.frames",
    "replaced_folder": "labtrail.files",
    "reseed": "labtrail.running.seeding",
    "run": "labtrail.running.call",
    "run_config": "labtrail.query.find",
    "run_task": "labtrail.running.execute",
    "run_tasks": "labtrail.running.cli",
    "sha256_of": "labtrail.files",
    "start": "labtrail.running.pushed",
    "task": "labtrail.running.task",
    "task_named": "labtrail.running.registry",
    "varying": "labtrail.query.frames",
    "write_atomically": "labtrail.files",
}
__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 made of the table


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

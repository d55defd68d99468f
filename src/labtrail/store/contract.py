"""The names that runs carry; queries, reports and people rely on them."""

import re
from collections.abc import Mapping

_RUN_ID = re.compile(r"[0-9a-f]{32}")

TASK = "labtrail.task"
KEY = "labtrail.key"
CAMPAIGN = "labtrail.campaign"
STATUS_REASON = "labtrail.status_reason"
ENDED = "labtrail.ended"
SAME_AS = "labtrail.same_as"
READS = "labtrail.reads"
PLACE = "labtrail.place"
HOST = "labtrail.host"
ATTEMPTS = "labtrail.attempts"
PROCESSES = "labtrail.processes"
DEVICE = "labtrail.device"
TORCH = "labtrail.torch"
GIT_COMMIT = "labtrail.git_commit"
GIT_DIRTY = "labtrail.git_dirty"
# Digest of the code that decides the run's numbers; where several have, JSON [[first epoch, digest], ...].
CODE = "labtrail.code"
CODES = "labtrail.codes"
# JSON [[digest, digest], ...] on a run: codes that somebody has said to be the same; or that a run, whose id follows,
# has shown to be.
CODE_SAME = "labtrail.code_same"
# JSON [key, ...]: further keys of a run, under which somebody has said that it counts.
KEYS = "labtrail.keys"
# Id of the tree in git that the run's code is of, and whether what was kept of it is complete.
TREE = "labtrail.tree"
SOURCE_KEPT = "labtrail.source"
# On a run that repeats another one to compare them: its id; and on that one, JSON of the verdict.
REPRODUCES = "labtrail.reproduces"
REPRODUCED = "labtrail.reproduced"
STUDY = "labtrail.study"
TRIAL = "labtrail.trial"
# Where the run's job ran, and what it had asked for.
SCHEDULER_PREFIX = "scheduler."
SCHEDULER = "scheduler.name"
JOB_ID = "scheduler.job_id"
JOB_NAME = "scheduler.job_name"
PARTITION = "scheduler.partition"
NODE = "scheduler.node"
CPUS = "scheduler.cpus"
MEMORY = "scheduler.memory_mib"
GPUS = "scheduler.gpus"
LIMIT_S = "scheduler.limit_s"
RESTARTS = "scheduler.restarts"
RESOURCES = "scheduler.resources"
# On a run that was copied from another store: its id there, and what the copy was made of.
SOURCE_RUN = "labtrail.source_run"
SYNCED = "labtrail.synced"
# When the round of a run was closed (ISO date): wide searches leave such a run out.
ARCHIVED = "labtrail.archived"
# What makes an epoch of the run the best: direction and metric.
SCORE = "labtrail.score"
# How often the run was submitted, and at which epoch it stood at the last submission that found it further on.
SUBMISSIONS = "scheduler.submissions"
PROGRESS = "scheduler.progress"
# Environment variable that gives a process's runs their campaign.
CAMPAIGN_VARIABLE = "LABTRAIL_CAMPAIGN"
# Id of the run that a process repeats, to compare the two, and after how many records it ends; unset: at its end.
REPRODUCES_VARIABLE = "LABTRAIL_REPRODUCES"
# Last word of a command that is kept with a run and takes no further options: the script opens its run by itself.
WHOLE_COMMAND = "--"
RECORDS_VARIABLE = "LABTRAIL_REPRODUCES_RECORDS"
# What its submission tells a job: the number of the attempt, and the resources that were asked for.
TOKEN_VARIABLE = "LABTRAIL_TOKEN"
RESOURCES_VARIABLE = "LABTRAIL_RESOURCES"
# Number of the process that started a job on this machine, with which the job ends.
PARENT_PROCESS_VARIABLE = "LABTRAIL_CHILD"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"

# Keys and values of configs, and names of artifacts.
CONFIG_PREFIX = "cfg."
CONFIG_FILE = "config.yaml"
BEST_PREFIX = "best"
CHECKPOINTS = "checkpoints"
BEST_WEIGHTS = f"{CHECKPOINTS}/best.pt"
SOURCE = "source"

# Alias of the version that was registered last ("latest" is reserved by MLflow).
NEWEST = "newest"


# How a config names the newest finished run of a task.
LATEST = "latest"
# How it names all of them.
ALL = "all"


# Tasks whose runs are about other runs.
ABOUT_RUNS = ("campaign", "study", "report", "tour")
# Exit statuses of every command; a process that a signal ended has 128 and its number.
DONE, FAILED, REFUSED, UNDECIDED = 0, 1, 2, 3
# Exit status of the process that ended last, since ``mlflow run`` turns every failure into 1.
EXIT_STATUS = "labtrail.exit_status"
# Statuses of runs that have not ended, and all there are.
OPEN = ("RUNNING", "SCHEDULED")
ANY_END = ("FINISHED", "FAILED", "KILLED", *OPEN)


def source_folder(attempt: int) -> str:
    """Name of the artifact folder with the source that an attempt ran from."""
    return SOURCE if attempt == 1 else f"{SOURCE}/attempt-{attempt}"


def code_file(digest: str) -> str:
    """Name of the artifact with the digests of a code's functions."""
    return f"{SOURCE}/code-{digest}.json"


def member_of(campaign: str) -> str:
    """Name of the tag of a run of another round, or of none, that a cell of this campaign rests on."""
    return f"labtrail.round.{campaign}"


def end_of(tags: Mapping[str, str], status: str) -> str:
    """How a run really ended: its own word, since ``mlflow run`` overwrites the status (KILLED and even FINISHED)."""
    return tags.get(ENDED, status)


def is_run_id(text: str) -> bool:
    """Whether a text is the id of a run, as opposed to a name or a filter."""
    return _RUN_ID.fullmatch(text) is not None

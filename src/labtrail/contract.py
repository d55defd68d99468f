"""The names that runs carry; queries, reports and people rely on them."""

from collections.abc import Mapping

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
STUDY = "labtrail.study"
TRIAL = "labtrail.trial"
JOB_ID = "scheduler.job_id"
# Environment variable that gives a process's runs their campaign.
CAMPAIGN_VARIABLE = "LABTRAIL_CAMPAIGN"
PARENT = "mlflow.parentRunId"
NOTE = "mlflow.note.content"

# Keys and values of configs, and names of artifacts.
CONFIG_PREFIX = "cfg."
CONFIG_FILE = "config.yaml"
BEST_PREFIX = "best"
CHECKPOINTS = "checkpoints"
BEST_WEIGHTS = f"{CHECKPOINTS}/best.pt"

# Alias of the version that was registered last ("latest" is reserved by MLflow).
NEWEST = "newest"


# How a config names the newest finished run of a task.
LATEST = "latest"
# How it names all of them.
ALL = "all"


def end_of(tags: Mapping[str, str], status: str) -> str:
    """How a run really ended: its own word, since ``mlflow run`` overwrites the status (KILLED and even FINISHED)."""
    return tags.get(ENDED, status)

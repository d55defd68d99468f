"""``python -m labtrail.report``: one page from many runs."""

from labtrail.report.task import TASK
from labtrail.running.cli import run_tasks

if __name__ == "__main__":
    run_tasks([TASK], "labtrail.report")

"""``python -m labtrail.report``: one page from many runs."""

from labtrail.cli import run_tasks
from labtrail.report.task import TASK

if __name__ == "__main__":
    run_tasks([TASK], "labtrail.report")

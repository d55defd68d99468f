"""``labtrail report``: one HTML page about a campaign, a task or a list of runs."""

from labtrail.report.task import TASK
from labtrail.running.cli import task_command

command = task_command(TASK, "labtrail.console", "report")

"""``labtrail tour``: all projects on embedded data, ending with a table and links."""

from labtrail.running.cli import task_command
from labtrail.sweeps.tour import TASK

command = task_command(TASK, "labtrail.console", "tour")

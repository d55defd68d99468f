"""``python -m projects.profiler [compare]``: where memory and time of a training step go; profiles side by side."""

from labtrail.cli import run_tasks
from projects.profiler import analysis, measure

TASKS = (measure.TASK, analysis.TASK)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.profiler")

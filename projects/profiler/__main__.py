"""``python -m projects.profiler [compare|remat]``: where memory of a training step goes, and how it needs less."""

from labtrail.running.cli import run_tasks
from projects.profiler import analysis, measure, remat

TASKS = (measure.TASK, analysis.TASK, remat.TASK)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.profiler")

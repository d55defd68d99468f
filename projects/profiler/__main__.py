"""``python -m projects.profiler [compare|remat]``: where memory of a training step goes, and how it needs less."""

import labtrail as lt
from projects.profiler.tasks import TASKS

if __name__ == "__main__":
    lt.run_tasks(TASKS, "projects.profiler")

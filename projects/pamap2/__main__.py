"""``python -m projects.pamap2 [prepare|robustness|analysis]``: trains fusion models; their data and limits."""

import labtrail as lt
from projects.pamap2.tasks import TASKS

if __name__ == "__main__":
    lt.run_tasks(TASKS, "projects.pamap2")

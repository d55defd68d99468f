"""``python -m projects.distill [bundle|analysis]``: trains teachers and students, and compares them."""

import labtrail as lt
from projects.distill.tasks import TASKS

if __name__ == "__main__":
    lt.run_tasks(TASKS, "projects.distill")

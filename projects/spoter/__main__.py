"""``python -m projects.spoter [attention|analysis]``: trains and tests SPOTER, and looks into what it has learnt."""

import labtrail as lt
from projects.spoter.tasks import TASKS

if __name__ == "__main__":
    lt.run_tasks(TASKS, "projects.spoter")

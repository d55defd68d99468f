"""``python -m projects.tumour``: trains and tests an MLP on breast cancer data."""

from pathlib import Path

from labtrail.record import Score
from labtrail.running.cli import run_tasks
from labtrail.running.task import Task
from projects.tumour.config import TumourConfig
from projects.tumour.data import sources
from projects.tumour.example import example
from projects.tumour.train import train

TASK = Task(
    name="tumour",
    config=TumourConfig,
    function=train,
    default=Path("configs/tumour/synthetic.yaml"),
    score=Score("validation/specificity_at_sensitivity"),
    sources=sources,
    example=example,
)
TASKS = (TASK,)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.tumour")

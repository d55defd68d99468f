"""``python -m projects.spoter [attention|analysis]``: trains and tests SPOTER, and looks into what it has learnt."""

from pathlib import Path

from labtrail.running.checkpoint import Score
from labtrail.running.cli import run_tasks
from labtrail.running.task import Task
from projects.spoter import analysis, attention
from projects.spoter.config import SpoterConfig
from projects.spoter.data import sources
from projects.spoter.example import example
from projects.spoter.train import train


def title(config: SpoterConfig) -> str:
    """Data, optimizer and seed: ``wlasl50-adamw-s1``."""
    data = Path(config.data.train).parent.name if config.data.train.endswith((".csv", ".gz")) else config.data.train
    return f"{data}-{config.train.optimizer}-s{config.seed}"


TASK = Task(
    name="spoter",
    config=SpoterConfig,
    function=train,
    default=Path("configs/spoter/synthetic.yaml"),
    score=Score("validation/accuracy"),
    sources=sources,
    title=title,
    example=example,
)

TASKS = (TASK, attention.TASK, analysis.TASK)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.spoter")

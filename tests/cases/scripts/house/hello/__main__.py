"""``python -m projects.hello``: the smallest task."""

from collections.abc import Generator
from pathlib import Path

from accelerate import Accelerator

from labtrail.running.checkpoint import Checkpoint
from labtrail.running.cli import run_tasks
from labtrail.config import Config
from labtrail.record import Record
from labtrail.running.task import Task


class HelloConfig(Config):
    """What is said."""

    epochs: int = 3
    """how often"""


def hello(config: HelloConfig, run) -> Generator[Record]:
    """A number for each epoch."""
    for epoch in range(config.epochs):
        yield Record(epoch, {"train/loss": 1.0 / (epoch + 1)})


TASK = Task(name="hello", config=HelloConfig, function=hello, default=Path("configs/hello/synthetic.yaml"))
TASKS = (TASK,)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.hello")

"""``python -m projects.pamap2 [prepare|robustness|analysis]``: trains fusion models; their data and limits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labtrail.running.cli import run_tasks
from labtrail.running.record import DataSource
from labtrail.running.task import Task
from projects.pamap2 import analysis, prepare, robustness
from projects.pamap2.build import open_data
from projects.pamap2.config import Pamap2Config
from projects.pamap2.example import example
from projects.pamap2.folds import make_folds
from projects.pamap2.train import train


def sources(config: Pamap2Config) -> Sequence[DataSource]:
    """The prepared data set; a split that it cannot give is refused here, before anything starts."""
    dataset = open_data(config.data)
    make_folds(dataset, config.split, config.seed)
    profile = {
        "rows": len(dataset),
        "subjects": len(np.unique(dataset.subjects)),
        "activities": len(np.unique(dataset.activities)),
    }
    name = config.data.folder if config.data.folder == "synthetic" else "pamap2"
    return [DataSource(name, "train", str(dataset.folder), dataset.digest, profile)]


def title(config: Pamap2Config) -> str:
    """Fusion, protocol and seed: ``hybrid-loso-s0``; of a dedicated model also what it reads."""
    read = f"-{'+'.join(config.model.modalities)}" if config.model.dedicated else ""
    return f"{config.model.fusion}-{config.split.protocol}{read}-s{config.seed}"


TASK = Task(
    name="pamap2",
    config=Pamap2Config,
    function=train,
    default=Path("configs/pamap2/synthetic.yaml"),
    sources=sources,
    title=title,
    example=example,
)
TASKS = (TASK, prepare.TASK, robustness.TASK, analysis.TASK)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.pamap2")

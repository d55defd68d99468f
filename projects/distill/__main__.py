"""``python -m projects.distill [bundle|analysis]``: trains teachers and students, and compares them."""

from collections.abc import Sequence
from pathlib import Path

from labtrail.running.checkpoint import Score
from labtrail.running.cli import run_tasks
from labtrail.running.record import DataSource
from labtrail.running.task import Task
from projects.distill import analysis, bundle
from projects.distill.config import DistillConfig
from projects.distill.data import load_images
from projects.distill.example import example
from projects.distill.teacher import resolve, teacher_source
from projects.distill.train import train


def sources(config: DistillConfig) -> Sequence[DataSource]:
    """The three splits, and the teacher's weights."""
    images = load_images(config.data)
    place = str(config.data.folder or f"data/{config.data.name}")
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    return [
        *(
            DataSource(f"{config.data.name}-{name}", name, place, digest, {"images": len(counts[name].labels)})
            for name, digest in images.digests.items()
        ),
        *teacher_source(config),
    ]


def title(config: DistillConfig) -> str:
    """Data, method, alpha and seed: ``cifar10-rkd-a0.5-resnet20-s0``."""
    alpha = "" if config.method == "none" else f"-a{config.alpha:g}"
    name = "baseline" if config.method == "none" else config.method
    return f"{config.data.name}-{name}{alpha}-{config.model.name}-s{config.seed}"


TASK = Task(
    name="distill",
    config=DistillConfig,
    function=train,
    default=Path("configs/distill/digits.yaml"),
    score=Score("validation/accuracy"),
    resolve=resolve,
    sources=sources,
    title=title,
    example=example,
)
TASKS = (TASK, bundle.make_task(TASK, sources), analysis.TASK)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.distill")

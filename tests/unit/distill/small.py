"""Small images, a small teacher and small configs, for tests that train."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from labtrail.record import Record, Score
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.run import Run
from projects.distill import paraphraser, teacher, train
from projects.distill.archives import Raw
from projects.distill.config import DataConfig, DistillConfig, ModelConfig
from projects.distill.data import Images, load_images
from projects.distill.model import ResNet
from projects.distill.teacher import Teacher

IMAGES = 96


def small_images() -> Images:
    """The first digits of each split."""
    whole = load_images(DataConfig())
    parts = {name: getattr(whole, name) for name in ("train", "validation", "test")}
    return replace(whole, **{name: Raw(one.images[:IMAGES], one.labels[:IMAGES]) for name, one in parts.items()})


def small_teacher() -> Teacher:
    torch.manual_seed(7)
    model = ResNet(ModelConfig(name="resnet14", width=8), 1, 10).eval().requires_grad_(False)
    return Teacher(model, model.widths)


def small_config(**changes: Any) -> DistillConfig:
    values = {
        "method": "logit",
        "teacher": "0" * 32,
        "teacher_sha256": "a",
        "model": {"name": "resnet8", "width": 4},
        "loss": {"paraphraser_epochs": 2},
        "train": {"epochs": 4, "batch_size": 32, "learning_rate": 0.01},
    }
    return DistillConfig.model_validate(values | changes)


def use_small(monkeypatch: Any, folder: Path) -> None:
    """Lets training read the small images and the small teacher."""
    monkeypatch.chdir(folder)
    for module in (train, paraphraser, teacher):
        monkeypatch.setattr(module, "load_images", lambda _config: small_images())
    monkeypatch.setattr(train, "load_teacher", lambda _config, _images, _device: small_teacher())


def run_together(configs: list[DistillConfig], folder: Path, records: int | None = None) -> list[tuple[int, Record]]:
    """Trains students side by side, each with its checkpoints in a folder of its number; stops as ``run`` does."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=configs[0].compute.precision)
    score = Score("validation/accuracy")
    checkpoints = [Checkpoint(folder / str(number), accelerator, score=score) for number in range(len(configs))]
    runs = [Run(str(number), accelerator, checkpoint) for number, checkpoint in enumerate(checkpoints)]
    found = []
    for number, record in train.train_together(configs, runs, accelerator):
        checkpoints[number].note_best(record)
        checkpoints[number].save(record)
        found.append((number, record))
        if len(found) == records:
            break
    for one in checkpoints:
        one.flush()
    return found


def run(config: DistillConfig, folder: Path, records: int | None = None) -> list[Record]:
    """Trains with checkpoints in a folder; stops as a killed process would after some records."""
    # Accelerate keeps the first precision of a process; a run has a process of its own.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=config.compute.precision)
    checkpoint = Checkpoint(folder, accelerator, score=Score("validation/accuracy"))
    found = []
    for record in train.train(config, Run("0", accelerator, checkpoint)):
        checkpoint.note_best(record)
        checkpoint.save(record)
        found.append(record)
        if len(found) == records:
            checkpoint.flush()
            break
    return found

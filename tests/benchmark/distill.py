"""Distillation: batches against per-image transforms, students under one teacher, NST, and what a trial costs."""

import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import optuna
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import Tensor
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.data import DataLoader, Dataset

from labtrail.config import Config
from labtrail.record import Record
from labtrail.running.launch import keep_freed_memory
from labtrail.running.run import Run
from labtrail.running.task import Task
from labtrail.running.updater import Updater
from labtrail.store import connection
from labtrail.sweeps.study import Range, StudyConfig, work
from projects.distill.archives import Raw
from projects.distill.config import DistillConfig, ModelConfig
from projects.distill.data import DeviceImages, Images
from projects.distill.learner import Learner, SkippedSteps
from projects.distill.losses import neuron_selectivity_loss, unit
from projects.distill.model import ResNet, fused
from projects.distill.teacher import Teacher
from projects.distill.train import EpochTrainer, distillation_loss, teacher_forward
from tests.benchmark.timing import Row, compare

_IMAGES, _BATCH, _STEPS, _TRIALS = 2000, 64, 2, 20
_CPU = torch.device("cpu")


def rows() -> Iterator[Row]:
    """Random images of 3 x 32 x 32, random weights."""
    yield _batches()
    yield from _bundles()
    yield _selectivity()
    yield _trials()


def _images() -> Images:
    generator = np.random.default_rng(0)
    raw = Raw(generator.integers(0, 256, (_IMAGES, 3, 32, 32), dtype=np.uint8), np.arange(_IMAGES) % 10)
    return Images(raw, raw, raw, 10, True, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class _PerImage(Dataset[tuple[Tensor, int]]):
    """The usual transforms, image by image: to float, pad, crop, flip, normalise."""

    def __init__(self, images: Images) -> None:
        self._images = torch.from_numpy(images.train.images)
        self._labels = images.train.labels.tolist()
        self._mean, self._deviation = (torch.tensor(one)[:, None, None] for one in (images.mean, images.deviation))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        padded = torch.nn.functional.pad(self._images[index].float() / 255, (4, 4, 4, 4))
        top, left = torch.randint(9, (2,)).tolist()
        cropped = padded[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            cropped = cropped.flip(2)
        return (cropped - self._mean) / self._deviation, self._labels[index]


def _batches() -> Row:
    images = _images()
    resident, loader = DeviceImages(images.train, images, _CPU), DataLoader(_PerImage(images), 128, shuffle=True)
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        for index in torch.randperm(_IMAGES, generator=generator).split(128):
            resident.augmented(index, generator)

    return compare(f"augmented batches of {_IMAGES} images (DataLoader)", ours, lambda: list(loader), 2.5)


def _config(alpha: float, precision: str, options: bool) -> DistillConfig:
    return DistillConfig.model_validate(
        {
            "method": "logit",
            "alpha": alpha,
            "teacher": "0" * 32,
            "model": {"name": "resnet20"},
            "compute": {"precision": precision},
            "train": {"batch_size": _BATCH, "channels_last": options, "fused_teacher": options},
        }
    )


def _random_teacher(options: bool) -> Teacher:
    model = ResNet(ModelConfig(name="resnet56"), 3, 10).eval().requires_grad_(False)
    if options:
        convert_conv2d_weight_memory_format(fused(model), torch.channels_last)
    return Teacher(model, model.widths)


class _Precision:
    """What a step needs of an Accelerator, which a process can have of one precision only."""

    def __init__(self, precision: str) -> None:
        self._half = precision == "bf16"

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self._half)

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def _students(alphas: tuple[float, ...], precision: str, options: bool) -> Callable[[], None]:
    """A few steps of students side by side; set up outside the clock."""
    accelerator = cast(Accelerator, _Precision(precision))
    teacher, steps = _random_teacher(options), []
    for alpha in alphas:
        config = _config(alpha, precision, options)
        learner = Learner(config, 3, 10, teacher.widths)
        if options:
            convert_conv2d_weight_memory_format(learner.student, torch.channels_last)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.9)
        updater = Updater(learner, optimizer, distillation_loss, accelerator)
        steps.append(EpochTrainer(config, learner, updater, 0, SkippedSteps("logit", 50)))
        # The first step also compares gradients, once an epoch: it is not a part of the rate.
        steps[-1].train_batch(
            torch.randn(2, 3, 32, 32), torch.arange(2), teacher_forward(teacher, torch.randn(2, 3, 32, 32), accelerator)
        )
    batch, labels = torch.randn(_BATCH, 3, 32, 32), torch.arange(_BATCH) % 10
    batch = batch.to(memory_format=torch.channels_last) if options else batch

    def run() -> None:
        for _ in range(_STEPS):
            taught = teacher_forward(teacher, batch, accelerator)
            for step in steps:
                step.train_batch(batch, labels, taught)

    return run


def _bundles() -> Iterator[Row]:
    alphas = (0.25, 0.5, 0.75)
    apart = [_students((alpha,), "no", False) for alpha in alphas]

    def one_by_one() -> None:
        # Runs of this platform too, so they keep freed memory as the bundle does.
        keep_freed_memory()
        for run in apart:
            run()

    name = "3 students (resnet56 -> resnet20, three runs)"
    yield compare(f"{name}: one teacher", _students(alphas, "no", False), one_by_one, 1.3, repeats=3)
    yield compare(f"{name}: all options, bf16", _students(alphas, "bf16", True), one_by_one, 2.2, repeats=3)


def _selectivity() -> Row:
    student, teacher = torch.randn(64, 64, 8, 8), torch.randn(64, 64, 8, 8)

    def broadcast() -> Tensor:
        s, t = unit(student.flatten(2)), unit(teacher.flatten(2))

        def kernel(v: Tensor, w: Tensor) -> Tensor:
            return (v[:, :, None] * w[:, None]).sum(3).square().mean()

        return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)

    return compare(
        "NST of 64 x 64 x 8 x 8 (broadcast kernel)", lambda: neuron_selectivity_loss(student, teacher), broadcast, 20.0
    )


class _ToyConfig(Config):
    """One value to search."""

    x: float = 0.0
    """where"""


def _toy(config: _ToyConfig, run: Run) -> Generator[Record]:
    yield Record(0, {"validation/accuracy": 1 - (config.x - 0.3) ** 2})


def _trials() -> Row:
    """Wall seconds that a trial costs beyond Optuna's own, against the 30 ms that are promised."""
    AcceleratorState._reset_state(reset_partial_state=True)
    here, space = Path.cwd(), {"x": Range(low=0.0, high=1.0)}
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
        try:
            Path("toy.yaml").write_text("seed: 0\n")
            task = Task("toy", _ToyConfig, _toy, Path("toy.yaml"))
            connection.initialise(["toy"])
            config = StudyConfig(name="bench", task="toy", config=Path("toy.yaml"), space=space, trials=_TRIALS + 1)
            work(config.model_copy(update={"trials": 1}), task, "", 0)
            began = time.perf_counter()
            work(config, task, "", 0)
            ours = (time.perf_counter() - began) / _TRIALS
            study = optuna.create_study(storage=JournalStorage(JournalFileBackend("bare.journal")))
            began = time.perf_counter()
            for _ in range(_TRIALS):
                trial = study.ask()
                study.tell(trial, trial.suggest_float("x", 0, 1))
            bare = (time.perf_counter() - began) / _TRIALS
        finally:
            os.chdir(here)
            del os.environ["MLFLOW_TRACKING_URI"]
    overhead = ours - bare
    return Row("a trial as a run of its own, beyond Optuna (30 ms)", overhead, 0.030, 0.030 / overhead, 1.0)

"""How a student is trained: one pass after the other over resident images, the teacher beside it.

Why: docs/decisions/020-single-run-is-a-bundle.md
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.optim import SGD, Optimizer
from tqdm import tqdm

import labtrail as lt
from projects.distill.config import DistillConfig, TrainConfig
from projects.distill.data import DeviceImages, Images, load_images
from projects.distill.evaluate import FEATURES, Predictions, features_file, predict, scores
from projects.distill.learner import Learner, SkippedSteps, balance, gradient_comparison
from projects.distill.methods import Factors
from projects.distill.model import Output
from projects.distill.paraphraser import trained_paraphraser
from projects.distill.teacher import Teacher, load_teacher

PARAPHRASER = "checkpoints/paraphraser.safetensors"


class Splits(NamedTuple):
    """The images of a run on its device."""

    train: DeviceImages
    validation: DeviceImages
    test: DeviceImages


def resident_splits(images: Images, device: torch.device) -> Splits:
    """The three splits as bytes on the device."""
    return Splits(*(DeviceImages(part, images, device) for part in (images.train, images.validation, images.test)))


def train(config: DistillConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record per epoch, and a last one over the test images: last weights, and those that validated best."""
    for _, record in train_together([config], [run], run.accelerator):
        yield record


def train_together(
    configs: Sequence[DistillConfig], runs: Sequence[lt.Run], accelerator: Accelerator
) -> Generator[tuple[int, lt.Record]]:
    """Trains students side by side under one forward pass of their teacher; one of them is the usual case.

    Args:
        configs: resolved; they agree on all but method, alpha and loss.
        runs: one for each.
        accelerator: shared.

    Yields:
        (number of the student, its Record); each student's Records are those of a run by itself.
    """
    shared = next((config for config in configs if config.teacher), configs[0]) if configs else None
    if shared is None:
        return
    images = load_images(shared.data)
    splits = resident_splits(images, accelerator.device)
    teacher = load_teacher(shared, images, accelerator.device) if shared.teacher else None
    students = [Student(config, images, splits, teacher, run) for config, run in zip(configs, runs, strict=True)]
    for epoch in range(min(student.progress.epoch for student in students), shared.train.epochs):
        due = [number for number, student in enumerate(students) if student.progress.epoch == epoch]
        steps = {number: students[number].begin(epoch) for number in due}
        for index, batch in batches(shared, splits.train, epoch):
            taught = teacher_forward(teacher, batch, accelerator)
            labels = splits.train.labels[index.to(batch.device)]
            for step in steps.values():
                step.train_batch(batch, labels, taught)
        for number, step in steps.items():
            yield number, students[number].end(epoch, step, splits.validation)
    for number, student in enumerate(students):
        yield number, student.outcome(splits.test, teacher)


class Student:
    """A student in training: what a run by itself has, too."""

    def __init__(
        self,
        config: DistillConfig,
        images: Images,
        splits: Splits,
        teacher: Teacher | None,
        run: lt.Run,
    ) -> None:
        accelerator = run.accelerator
        used_teacher = teacher if config.teacher else None
        learner, optimizer = make_learner(config, images, splits, used_teacher)
        self._learner, self._optimizer = accelerator.prepare(learner, optimizer)
        self._config, self._run = config, run
        self._skipped = SkippedSteps(config.method, config.train.skipped_steps)
        self.progress = run.restore(self._learner, self._optimizer)
        self._updater = lt.Updater(self._learner, self._optimizer, distillation_loss, accelerator, remat=config.remat)
        self._files: dict[str, Any] = {}
        if self.progress.epoch == 0:
            self._files = _paraphraser_file(self._learner)
            if used_teacher is not None and config.loss.balance == "gradient":
                calibrate(config, self._learner, used_teacher, splits.train, accelerator)

    def begin(self, epoch: int) -> "EpochTrainer":
        """The steps of an epoch."""
        return EpochTrainer(self._config, self._learner, self._updater, epoch, self._skipped)

    def end(self, epoch: int, step: "EpochTrainer", validation: DeviceImages) -> lt.Record:
        """The Record of an epoch whose steps have been taken."""
        metrics = lt.named("train", step.means()) | lt.named(
            "validation", scores(predict(self._learner.student, validation, self._run.accelerator))
        )
        self.progress.epoch = epoch + 1
        files, self._files = self._files, {}
        return lt.Record(epoch, metrics, files)

    def outcome(self, test: DeviceImages, teacher: Teacher | None) -> lt.Record:
        """The one look at the test images: last weights, and those that validated best."""
        last = scores(predict(self._learner.student, test, self._run.accelerator))
        self._run.load_best(self._learner)
        best = predict(self._learner.student, test, self._run.accelerator)
        metrics = scores(best) | {"accuracy_last": last["accuracy"]}
        if teacher is not None and self._config.teacher:
            metrics |= agreement(best, predict(teacher.model, test, self._run.accelerator))
        return lt.Record(self._config.train.epochs, lt.named("test", metrics), {FEATURES: features_file(best)})


def make_learner(
    config: DistillConfig, images: Images, splits: Splits, teacher: Teacher | None
) -> tuple[Learner, Optimizer]:
    """A fresh student with its method's parts and its optimizer, drawn from the run's seed alone."""
    lt.reseed(config.seed)
    widths = teacher.widths if teacher else ()
    learner = Learner(config, images.train.images.shape[1], images.classes, widths)
    if config.train.channels_last:
        # Only the networks: the scalars of a learner have no layout.
        convert_conv2d_weight_memory_format(learner.student, torch.channels_last)
    if isinstance(learner.matcher, Factors):
        assert teacher is not None
        count = learner.matcher.paraphrase.conv1.out_channels
        learner.matcher.paraphrase = trained_paraphraser(config, teacher, count, splits.train)
    settings = config.train
    optimizer = SGD(
        [parameter for parameter in learner.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    return learner, optimizer


class EpochTrainer:
    """The steps of one epoch of one student."""

    def __init__(
        self,
        config: DistillConfig,
        learner: Learner,
        updater: lt.Updater,
        epoch: int,
        skipped: SkippedSteps,
    ) -> None:
        lt.reseed(config.seed, epoch)
        self._updater, self._skipped = updater, skipped
        self._method, self._epoch, self._rate = config.method, epoch, learning_rate_at(config.train, epoch)
        # A plan would have to keep everything for this comparison.
        self._compares = learner.matcher is not None and not updater.planned
        self._weight = learner.weight
        self._sums: dict[str, Tensor] = {}
        self._pull: dict[str, float] = {}
        self._count = 0
        learner.train()

    def train_batch(self, images: Tensor, labels: Tensor, taught: Output | None) -> None:
        """One step of the optimizer; the sums stay on the device."""
        compared = self._compares and self._count == 0
        batch = {"images": images, "labels": labels, "taught": taught, "compared": compared}
        (figures,) = self._updater([batch], self._rate)
        self._skipped.note(self._updater.skipped)
        if compared:
            self._pull = {name: float(figures.pop(name)) for name in ("gradient_ratio", "gradient_cosine")}
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * len(labels)
        self._count += len(labels)

    def means(self) -> dict[str, float]:
        """Means over the images of the epoch; with a teacher also its weight and its pull in the first batch.

        Raises:
            MetricError: the loss is not finite; names the method.
        """
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        if not math.isfinite(means["loss"]):
            raise lt.MetricError(
                f"method {self._method}: the loss of epoch {self._epoch} is {means['loss']}; lower "
                "train.learning_rate or loss.weight"
            )
        if "extra" in self._sums:
            means |= self._pull | {"extra_weight": float(self._weight)}
        return means


def distillation_loss(learner: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, 0-d, and its figures: the loss, its terms without alpha, and the accuracy.

    Args:
        learner: a Learner.
        batch: images (B, C, H, W); labels (B,); taught, what the teacher says, or None; compared, whether the figures
            also say how the two terms pull at the student.
    """
    assert isinstance(learner, Learner)
    output = learner.student(batch["images"])
    ce, extra = learner.terms(output, batch["taught"], batch["labels"])
    loss = learner.loss(ce, extra)
    figures = {"loss": loss, "ce": ce, "accuracy": (output.logits.argmax(1) == batch["labels"]).float().mean()}
    if extra is not None:
        figures["extra"] = extra
        if batch["compared"]:
            ratio, cosine = gradient_comparison(learner.student, ce, extra)
            figures |= {"gradient_ratio": ratio, "gradient_cosine": cosine}
    return loss, figures


def batches(config: DistillConfig, images: DeviceImages, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices, augmented images) of one epoch; both depend on seed and epoch only, so that runs can be paired."""
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=generator).split(config.train.batch_size)
    # One image alone has no batch statistics: it joins the others in the next epoch.
    parts = [part for part in order if len(part) > 1]
    bar = tqdm(parts, desc=f"epoch {epoch}", unit="step", leave=False, disable=None)
    for index in bar:
        batch = images.augmented(index, generator)
        yield index, batch if config.train.channels_last else batch.contiguous()


def teacher_forward(teacher: Teacher | None, batch: Tensor, accelerator: Accelerator) -> Output | None:
    """What the teacher says about a batch, without a gradient."""
    if teacher is None:
        return None
    with torch.no_grad(), accelerator.autocast():
        return teacher.model(batch)


def learning_rate_at(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch; a pure function, so nothing has to be saved."""
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    return config.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


def calibrate(
    config: DistillConfig, learner: Learner, teacher: Teacher, images: DeviceImages, accelerator: Accelerator
) -> None:
    """Balances the extra term against CE on the first batches of epoch 0; batch statistics stay as they were."""
    parts = [pair for pair, _ in zip(batches(config, images, 0), range(config.loss.balance_batches), strict=False)]
    before = {name: buffer.clone() for name, buffer in learner.student.named_buffers()}
    learner.train()

    def terms(number: int) -> tuple[Tensor, Tensor]:
        index, batch = parts[number]
        with accelerator.autocast():
            taught = teacher_forward(teacher, batch, accelerator)
            ce, extra = learner.terms(learner.student(batch), taught, images.labels[index.to(batch.device)])
        assert extra is not None
        return ce, extra

    balance(learner, terms, len(parts))
    for name, buffer in learner.student.named_buffers():
        buffer.copy_(before[name])


def agreement(student: Predictions, teacher: Predictions) -> dict[str, float]:
    """How often student and teacher say the same, and the teacher's accuracy on the same images."""
    student_classes, teacher_classes = student.logits.argmax(axis=1), teacher.logits.argmax(axis=1)
    return {
        "teacher_agreement": float((student_classes == teacher_classes).mean()),
        "teacher_accuracy": float((teacher_classes == teacher.labels).mean()),
    }


def _paraphraser_file(learner: Learner) -> dict[str, bytes]:
    if not isinstance(learner.matcher, Factors):
        return {}
    state = learner.matcher.paraphrase.state_dict()
    return {PARAPHRASER: save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})}

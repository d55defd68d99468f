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
from projects.distill.data import Images, Resident, load_images
from projects.distill.evaluate import FEATURES, Answers, features_file, predict, scores
from projects.distill.learner import Learner, SkippedSteps, balance, gradient_comparison
from projects.distill.methods import Factors
from projects.distill.model import Output
from projects.distill.paraphraser import trained_paraphraser
from projects.distill.teacher import Teacher, load_teacher

PARAPHRASER = "checkpoints/paraphraser.safetensors"


class Splits(NamedTuple):
    """The images of a run on its device."""

    train: Resident
    validation: Resident
    test: Resident


def resident_splits(images: Images, device: torch.device) -> Splits:
    """The three splits as bytes on the device."""
    return Splits(*(Resident(part, images, device) for part in (images.train, images.validation, images.test)))


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
    teacher = load_teacher(shared, accelerator.device) if shared.teacher else None
    students = [Student(config, images, splits, teacher, run) for config, run in zip(configs, runs, strict=True)]
    for epoch in range(min(student.progress.epoch for student in students), shared.train.epochs):
        due = [number for number, student in enumerate(students) if student.progress.epoch == epoch]
        steps = {number: students[number].begin(epoch) for number in due}
        for index, batch in batches(shared, splits.train, epoch):
            taught = answer_of(teacher, batch, accelerator)
            labels = splits.train.labels[index.to(batch.device)]
            for step in steps.values():
                step.take(batch, labels, taught)
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
        self._config, self._accelerator, self._run = config, accelerator, run
        self._skipped = SkippedSteps(config.method, config.train.skipped_steps)
        self.progress = run.restore(self._learner, self._optimizer)
        self._lean = lt.lean_backward(self._learner, noted_loss, config.remat, accelerator)
        self._files: dict[str, Any] = {}
        if self.progress.epoch == 0:
            self._files = _paraphraser_file(self._learner)
            if used_teacher is not None and config.loss.balance == "gradient":
                calibrate(config, self._learner, used_teacher, splits.train, accelerator)

    def begin(self, epoch: int) -> "Step":
        """The steps of an epoch."""
        return Step(self._config, self._learner, self._optimizer, epoch, self._accelerator, self._skipped, self._lean)

    def end(self, epoch: int, step: "Step", validation: Resident) -> lt.Record:
        """The Record of an epoch whose steps have been taken."""
        metrics = lt.named("train", step.means()) | lt.named(
            "validation", scores(predict(self._learner.student, validation))
        )
        self.progress.epoch = epoch + 1
        files, self._files = self._files, {}
        return lt.Record(epoch, metrics, files)

    def outcome(self, test: Resident, teacher: Teacher | None) -> lt.Record:
        """The one look at the test images: last weights, and those that validated best."""
        last = scores(predict(self._learner.student, test))
        self._run.load_best(self._learner)
        best = predict(self._learner.student, test)
        metrics = scores(best) | {"accuracy_last": last["accuracy"]}
        if teacher is not None and self._config.teacher:
            metrics |= agreement(best, predict(teacher.model, test))
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


class Step:
    """The steps of one epoch of one student."""

    def __init__(
        self,
        config: DistillConfig,
        learner: Learner,
        optimizer: Optimizer,
        epoch: int,
        accelerator: Accelerator,
        skipped: SkippedSteps,
        lean: lt.LeanBackward | None = None,
    ) -> None:
        lt.reseed(config.seed, epoch)
        self._learner, self._optimizer, self._accelerator = learner, optimizer, accelerator
        self._method, self._epoch = config.method, epoch
        self._skipped, self._lean = skipped, lean
        self._sums: dict[str, Tensor] = {}
        self._pull: dict[str, float] = {}
        self._count = 0
        for group in optimizer.param_groups:
            group["lr"] = rate(config.train, epoch)
        learner.train()

    def take(self, batch: Tensor, labels: Tensor, taught: Output | None) -> None:
        """One step of the optimizer; the sums stay on the device."""
        batch_figures = (
            self._backward(batch, labels, taught) if self._lean is None else self._planned(batch, labels, taught)
        )
        self._optimizer.step()
        self._skipped.note(bool(getattr(self._optimizer, "step_was_skipped", False)))
        self._optimizer.zero_grad()
        for name, value in batch_figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * len(labels)
        self._count += len(labels)

    def _backward(self, batch: Tensor, labels: Tensor, taught: Output | None) -> dict[str, Tensor]:
        """Gradients by autograd; the figures of the batch."""
        with self._accelerator.autocast():
            output = self._learner.student(batch)
            ce, extra = self._learner.terms(output, taught, labels)
        loss = self._learner.loss(ce, extra)
        if extra is not None and self._count == 0:
            ratio, cosine = gradient_comparison(self._learner.student, ce, extra)
            self._pull = {"gradient_ratio": float(ratio), "gradient_cosine": float(cosine)}
        self._accelerator.backward(loss)
        return figures(output, labels, loss, ce, extra)

    def _planned(self, batch: Tensor, labels: Tensor, taught: Output | None) -> dict[str, Tensor]:
        """The same by a planned step; the pull of the two terms is not compared, for that would keep everything."""
        assert self._lean is not None
        paired = taught is not None and self._learner.matcher is not None
        names = ("loss", "ce", "accuracy", *(("extra",) if paired else ()))
        noted = torch.zeros(len(names), device=batch.device)
        self._lean({"images": batch, "labels": labels, "taught": taught, "noted": noted})
        return dict(zip(names, noted, strict=True))

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
            means |= self._pull | {"extra_weight": float(self._learner.weight)}
        return means


def figures(output: Output, labels: Tensor, loss: Tensor, ce: Tensor, extra: Tensor | None) -> dict[str, Tensor]:
    """What is told of a batch, scalars."""
    values = {"loss": loss, "ce": ce, "accuracy": (output.logits.argmax(1) == labels).float().mean()}
    return values if extra is None else values | {"extra": extra}


def noted_loss(learner: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The loss of a batch with keys images, labels, taught; its figures are left in ``noted``."""
    assert isinstance(learner, Learner)
    output = learner.student(batch["images"])
    ce, extra = learner.terms(output, batch["taught"], batch["labels"])
    loss = learner.loss(ce, extra)
    lt.notes(figures(output, batch["labels"], loss, ce, extra), batch["noted"])
    return loss


def batches(config: DistillConfig, images: Resident, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices, augmented images) of one epoch; both depend on seed and epoch only, so that runs can be paired."""
    generator = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=generator).split(config.train.batch_size)
    # One image alone has no batch statistics: it joins the others in the next epoch.
    parts = [part for part in order if len(part) > 1]
    bar = tqdm(parts, desc=f"epoch {epoch}", unit="step", leave=False, disable=None)
    for index in bar:
        batch = images.augmented(index, generator)
        yield index, batch if config.train.channels_last else batch.contiguous()


def answer_of(teacher: Teacher | None, batch: Tensor, accelerator: Accelerator) -> Output | None:
    """What the teacher says about a batch, without a gradient."""
    if teacher is None:
        return None
    with torch.no_grad(), accelerator.autocast():
        return teacher.model(batch)


def rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch; a pure function, so nothing has to be saved."""
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
    return config.learning_rate * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)


def calibrate(
    config: DistillConfig, learner: Learner, teacher: Teacher, images: Resident, accelerator: Accelerator
) -> None:
    """Balances the extra term against CE on the first batches of epoch 0; batch statistics stay as they were."""
    parts = [pair for pair, _ in zip(batches(config, images, 0), range(config.loss.balance_batches), strict=False)]
    before = {name: buffer.clone() for name, buffer in learner.student.named_buffers()}
    learner.train()

    def terms(number: int) -> tuple[Tensor, Tensor]:
        index, batch = parts[number]
        with accelerator.autocast():
            taught = answer_of(teacher, batch, accelerator)
            ce, extra = learner.terms(learner.student(batch), taught, images.labels[index.to(batch.device)])
        assert extra is not None
        return ce, extra

    balance(learner, terms, len(parts))
    for name, buffer in learner.student.named_buffers():
        buffer.copy_(before[name])


def agreement(student: Answers, teacher: Answers) -> dict[str, float]:
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

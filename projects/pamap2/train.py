"""How a fusion model is trained: fold after fold, each from fresh weights to its one look at the test windows.

Why: docs/decisions/010-leave-one-out-is-one-run.md
     docs/decisions/011-last-weights-are-tested.md
"""

import functools
import math
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

import labtrail as lt
from projects.pamap2.baseline import extra_trees_predict
from projects.pamap2.build import open_data
from projects.pamap2.config import Pamap2Config, TrainConfig
from projects.pamap2.evaluate import macro_f1, predict, scores
from projects.pamap2.folds import Classes, Fold, classes_of, make_folds
from projects.pamap2.inputs import CHANNELS, DeviceWindows, Scale, make_resident, rotated
from projects.pamap2.model import FusionModel
from projects.pamap2.outcome import outcome_files


class State(nn.Module):
    """Everything a fold has learnt, so that one checkpoint holds it.

    Attributes:
        current: the network in training.
        kept: the weights that will be tested: the newest, or with early stopping those that validated best.
        best_score, best_loss, stale: the best validation score of this fold, the loss beside it, and epochs since.
        logits: of the test windows of all folds, joined; filled as folds end.
        trees: classes that the baseline gives these windows.
    """

    def __init__(self, config: Pamap2Config, classes: int, windows: int) -> None:
        super().__init__()
        self.current = FusionModel(config.model, CHANNELS, classes)
        self.kept = FusionModel(config.model, CHANNELS, classes).requires_grad_(False)
        self.best_score: Tensor
        self.best_loss: Tensor
        self.stale: Tensor
        self.logits: Tensor
        self.trees: Tensor
        self.register_buffer("best_score", torch.tensor(-1.0))
        self.register_buffer("best_loss", torch.tensor(math.inf))
        self.register_buffer("stale", torch.tensor(0))
        self.register_buffer("logits", torch.zeros(windows, classes))
        self.register_buffer("trees", torch.zeros(windows, dtype=torch.int64))

    def begin(self, config: Pamap2Config, classes: int, optimizer: Optimizer, scale: Scale) -> None:
        """Fresh weights and an optimizer without memory, in place."""
        self.current.load_state_dict(FusionModel(config.model, CHANNELS, classes).state_dict())
        self.current.set_normalization(scale.means, scale.deviations)
        optimizer.state.clear()
        self.best_score.fill_(-1.0)
        self.best_loss.fill_(math.inf)
        self.stale.zero_()

    def keep_best(self, score: float, loss: float, stopping: bool) -> None:
        """Keeps the weights if they are the best of the fold, or always without early stopping.

        Validation windows are of the people trained on. At the end of a schedule they tell little about new people,
        so they decide only where they stop the training. Of equal scores the lower loss is better.
        """
        better = (score, -loss) > (float(self.best_score), -float(self.best_loss))
        if better:
            self.best_score.fill_(score)
            self.best_loss.fill_(loss)
            self.stale.zero_()
        else:
            self.stale += 1
        if better or not stopping:
            self.kept.load_state_dict(self.current.state_dict())


def train(config: Pamap2Config, run: lt.Run) -> Generator[lt.Record]:
    """One Record per epoch, folds one after the other, and a last one over the test windows of all folds."""
    accelerator, settings = run.accelerator, config.train
    dataset = open_data(config.data)
    classes, folds = classes_of(dataset), make_folds(dataset, config.split, config.seed)
    lt.reseed(config.seed)
    count = len(classes.ids)
    state = State(config, count, sum(len(fold.test) for fold in folds))
    optimizer = AdamW(state.current.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    state, optimizer = accelerator.prepare(state, optimizer)
    loss = functools.partial(update_loss, settings.label_smoothing)
    updater = lt.Updater(state.current, optimizer, loss, accelerator, remat=config.remat, clip_norm=settings.clip_norm)
    if settings.compile:
        lt.compile_in_place(state.current)
    epochs, resident, opened = settings.epochs, None, -1

    for step in run.epochs(epochs * len(folds), state, optimizer):
        number, epoch = divmod(step, epochs)
        fold = folds[number]
        if resident is None or opened != number:
            resident = make_resident(dataset.values, classes.labels, fold, config.split.window, accelerator.device)
            opened = number
        lt.reseed(config.seed, number, epoch)
        if epoch == 0:
            state.begin(config, count, optimizer, resident.scale)
        metrics = {}
        if not settings.patience or int(state.stale) <= settings.patience:
            trained = train_epoch(state.current, updater, resident, fold, config, epoch)
            logits, _ = predict(state.current, resident, fold.validation, accelerator)
            validation = scores(logits, classes.labels[fold.validation])
            state.keep_best(validation["macro_f1"], validation["nll"], settings.patience > 0)
            metrics = lt.named("train", trained) | lt.named("validation", validation)
        files = _close(state, config, resident, folds, number, accelerator) if epoch == epochs - 1 else {}
        yield lt.Record(step, metrics, files)

    yield _outcome(config, state, dataset.subjects, folds, classes)


def train_epoch(
    model: FusionModel,
    updater: lt.Updater,
    resident: DeviceWindows,
    fold: Fold,
    config: Pamap2Config,
    epoch: int,
) -> dict[str, float]:
    """One pass over the training windows of a fold; mean loss and accuracy with all modalities there."""
    model.train()
    train = config.train
    generator = torch.Generator().manual_seed(torch.initial_seed() % 2**31)
    order = np.random.default_rng((config.seed, int(torch.initial_seed() % 2**31))).permutation(len(fold.train))
    passes = np.array_split(order, math.ceil(len(order) / train.batch_size))
    updates = [passes[first : first + train.accumulation] for first in range(0, len(passes), train.accumulation)]
    weights = (
        class_weights(resident.labels[torch.from_numpy(fold.train)], model.classes) if train.class_weights else None
    )
    total, correct = torch.zeros(2, device=resident.values.device)
    bar = tqdm(updates, desc=f"fold {fold.name} epoch {epoch}", unit="update", leave=False, disable=None)
    for index, update in enumerate(bar):
        size = sum(len(part) for part in update)
        batches = []
        for part in update:
            raw, labels = resident.windows(fold.train[part])
            windows = resident.normalised(rotated(raw, train.rotation_deg, generator))
            batches.append(
                {
                    "windows": windows,
                    "labels": labels,
                    "weights": weights,
                    "kept": drawn_subsets(model, labels, len(windows), generator),
                    "share": torch.tensor(len(part) / size, device=labels.device),
                }
            )
        figures = updater(batches, one_cycle(train, epoch + index / len(updates)))
        for part, batch_figures in zip(update, figures, strict=True):
            total += batch_figures["loss"] * len(part)
            correct += batch_figures["hits"]
    return {"loss": float(total) / len(order), "accuracy": float(correct) / len(order)}


def window_loss(
    model: FusionModel,
    windows: list[Tensor],
    labels: Tensor,
    weights: Tensor | None,
    smoothing: float,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cross entropy with all modalities there and, where missing ones are trained for, with a random subset of them.

    Args:
        model: the network.
        windows: one tensor per modality, (B, rows, channels).
        labels: (B,).
        weights: of the classes; None: all count alike.
        smoothing: of the labels.
        kept: which modalities the second pass has, bool (B, modalities); None: no second pass.

    Returns:
        The mean loss, and the logits with all modalities, (B, K).
    """
    there = torch.ones(len(labels), len(windows), dtype=torch.bool, device=labels.device)
    logits = model(windows, there).logits
    loss = _mean_loss(logits, labels, weights, smoothing)
    if kept is not None:
        loss = (loss + _mean_loss(model(windows, kept).logits, labels, weights, smoothing)) / 2
    return loss, logits


def drawn_subsets(model: FusionModel, labels: Tensor, modalities: int, generator: torch.Generator) -> Tensor | None:
    """Which modalities of each window the second pass has, bool (B, modalities); None where none is trained."""
    if model.config.missing not in ("modality_dropout", "learned_token", "masked_attention"):
        return None
    kept = torch.rand((len(labels), modalities), generator=generator) >= model.config.missing_rate
    # A window with nothing left teaches nothing: it keeps everything.
    kept[~kept[:, model.used].any(1)] = True
    return kept.to(labels.device)


def update_loss(smoothing: float, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """A batch's share of the mean loss of its update, 0-d, and its figures: its own mean loss, and how many are right.

    Args:
        smoothing: of the labels.
        model: a FusionModel.
        batch: keys windows, labels, weights, kept as in ``window_loss``, and share, 0-d.
    """
    assert isinstance(model, FusionModel)
    labels = batch["labels"]
    loss, logits = window_loss(model, batch["windows"], labels, batch["weights"], smoothing, batch["kept"])
    return loss * batch["share"], {"loss": loss, "hits": (logits.argmax(1) == labels).sum()}


def _mean_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    losses = F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)
    return (losses if weights is None else losses * weights[labels]).mean()


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Inverse frequency of each class among the training windows, 1 on average over windows; 0 for absent ones."""
    counts = torch.bincount(labels, minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)


def one_cycle(config: TrainConfig, epoch: float) -> float:
    """The one-cycle rate (Smith & Topin 2018) at a moment of a fold; a pure function, so nothing has to be saved."""
    peak, warm = config.learning_rate, 0.3 * config.epochs
    if epoch < warm:
        return peak * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * epoch / warm)))
    return peak * 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (config.epochs - warm)))


def _close(
    state: State,
    config: Pamap2Config,
    resident: DeviceWindows,
    folds: list[Fold],
    number: int,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The fold's one look at its test windows, by the weights kept; these become an artifact."""
    fold = folds[number]
    first = sum(len(fold.test) for fold in folds[:number])
    part = slice(first, first + len(fold.test))
    logits, _ = predict(state.kept, resident, fold.test, accelerator)
    state.logits[part] = torch.from_numpy(logits).to(state.logits)
    guesses = extra_trees_predict(resident, config.model.modalities, fold.train, fold.test, config.seed)
    state.trees[part] = torch.from_numpy(guesses).to(state.trees)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.kept.state_dict().items()}
    return {fold.weights_name: save(tensors)}


def _outcome(
    config: Pamap2Config, state: State, subjects: np.ndarray, folds: list[Fold], classes: Classes
) -> lt.Record:
    """The test windows of all folds together, beside the baseline on the same windows."""
    starts = np.concatenate([fold.test for fold in folds])
    labels, logits = classes.labels[starts], state.logits.cpu().numpy()
    trees = state.trees.cpu().numpy()
    metrics = scores(logits, labels)
    metrics["baseline_extratrees_macro_f1"] = macro_f1(labels, trees)
    metrics["unanswerable_windows"] = float(sum(fold.unanswerable for fold in folds))
    metrics["baseline_extratrees_accuracy"] = float((trees == labels).mean())
    files = outcome_files(logits, trees, labels, np.asarray(subjects)[starts], folds, classes)
    return lt.Record(config.train.epochs * len(folds), lt.named("test", metrics), files)

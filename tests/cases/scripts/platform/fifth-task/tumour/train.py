"""How the MLP is trained."""

import math
from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from labtrail.running.checkpoint import Checkpoint
from labtrail.record import Record, named
from labtrail.running.remat import lean_backward
from labtrail.running.seeding import reseed
from projects.tumour.config import TrainConfig, TumourConfig
from projects.tumour.data import Split, load_splits
from projects.tumour.model import Mlp


class State(nn.Module):
    """The network and what early stopping remembers: only what is model or optimizer is checkpointed."""

    def __init__(self, config: TumourConfig) -> None:
        super().__init__()
        self.net = Mlp(config.model)
        self.best: Tensor
        self.stale: Tensor
        self.register_buffer("best", torch.tensor(math.inf))
        self.register_buffer("stale", torch.tensor(0))

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (B, 2)."""
        return self.net(rows)


def noted_loss(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Loss of a pass, as a share of its update; loss and hits are left in ``noted``."""
    logits = model(batch["rows"])
    loss = F.cross_entropy(logits.float(), batch["labels"])
    with torch.no_grad():
        batch["noted"].copy_(torch.stack([loss, (logits.argmax(1) == batch["labels"]).sum()]))
    return loss * batch["share"]


def train(config: TumourConfig, run) -> Generator[Record]:
    """One Record per epoch, and a last one with the test split."""
    accelerator, checkpoint = run.accelerator, run
    splits = {name: Split(*(one.to(accelerator.device) for one in split)) for name, split in load_splits().items()}
    reseed(config.seed)
    state = State(config)
    model, optimizer = accelerator.prepare(state, AdamW(state.parameters(), lr=config.train.learning_rate))
    progress = checkpoint.restore(model, optimizer)
    lean = lean_backward(model, noted_loss, config.remat, accelerator)

    for epoch in range(progress.epoch, config.train.epochs):
        if config.train.patience and int(state.stale) > config.train.patience:
            break
        trained = _epoch(config, epoch, model, optimizer, splits["train"], accelerator, lean)
        validation = _scores(model, splits["validation"], config.sensitivity)
        if validation["loss"] < float(state.best):
            state.best.fill_(validation["loss"])
            state.stale.zero_()
        else:
            state.stale += 1
        progress.epoch = epoch + 1
        yield Record(epoch, named("train", trained) | named("validation", validation))

    checkpoint.load_best(model)
    test = _scores(model, splits["test"], config.sensitivity)
    yield Record(config.train.epochs, named("test", test), {"figures/roc.png": _roc(model, splits["test"])})


def _epoch(
    config: TumourConfig, epoch: int, model: nn.Module, optimizer: Any, split: Split, accelerator: Accelerator,
    lean: Any,
) -> dict[str, float]:  # fmt: skip
    model.train()
    train, rank, ranks = config.train, accelerator.process_index, accelerator.num_processes
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(config.seed * 100003 + epoch))
    order = order[: len(order) // ranks * ranks][rank::ranks]
    reseed(config.seed, epoch, rank)
    passes = order.split(train.batch_size)
    updates = [passes[i : i + train.accumulation] for i in range(0, len(passes), train.accumulation)]
    total = torch.zeros(2, device=accelerator.device)
    for index, update in enumerate(updates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(train, epoch + index / len(updates))
        size = sum(map(len, update))
        for number, part in enumerate(update):
            noted = torch.zeros(2, device=accelerator.device)
            batch = {"rows": split.rows[part], "labels": split.labels[part], "noted": noted,
                     "share": torch.tensor(len(part) / size)}  # fmt: skip
            if lean is not None:
                lean(batch)
            else:
                with nullcontext() if number == len(update) - 1 else accelerator.no_sync(model):
                    accelerator.backward(noted_loss(model, batch))
            total += noted * torch.tensor([len(part), 1.0])
        optimizer.step()
        optimizer.zero_grad()
    sums = (accelerator.reduce(total, "sum") / (len(order) * ranks)).tolist()
    return {"loss": sums[0], "accuracy": sums[1], "learning_rate": optimizer.param_groups[0]["lr"]}


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """The rate at a moment of training."""
    if config.schedule == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))


def _probabilities(model: nn.Module, split: Split) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(split.rows).float().softmax(1)


def _scores(model: nn.Module, split: Split, sensitivity: float) -> dict[str, float]:
    """Loss, accuracy, and specificity where at least this share of malignant rows is found."""
    chances = _probabilities(model, split)
    false, true, _ = roc_curve(split.labels.cpu(), chances[:, 1].cpu())
    return {
        "loss": float(F.nll_loss(chances.clamp_min(1e-9).log(), split.labels)),
        "accuracy": float((chances.argmax(1) == split.labels).float().mean()),
        "specificity_at_sensitivity": float(1 - false[true >= sensitivity].min()),
    }


def _roc(model: nn.Module, split: Split) -> Figure:
    false, true, _ = roc_curve(split.labels.cpu(), _probabilities(model, split)[:, 1].cpu())
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(false, true)
    axes.set(xlabel="false positives", ylabel="true positives", title="ROC of the test rows")
    return figure

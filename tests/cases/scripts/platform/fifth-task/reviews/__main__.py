"""``python -m projects.reviews``: classifies made-up reviews by a tiny BERT with random weights."""

import hashlib
from pathlib import Path

import torch
from pydantic import Field
from transformers import BertConfig, BertForSequenceClassification

from labtrail.record import Score
from labtrail.running.cli import run_tasks
from labtrail.config import Remat, Config
from labtrail.running.example import Example
from labtrail.record import DataSource, Record, named
from labtrail.running.remat import lean_backward
from labtrail.running.seeding import reseed
from labtrail.running.task import Task

VOCABULARY, LENGTH = 200, 24


class ReviewsConfig(Config):
    """Everything that decides the outcome."""

    epochs: int = Field(default=2, ge=1)
    """passes over the train split"""
    width: int = Field(default=32, ge=8)
    """hidden size"""
    learning_rate: float = Field(default=1e-3, gt=0)
    """rate"""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """dropout rate"""
    remat: Remat = Remat()


def data(count: int, seed: int):
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCABULARY, (count, LENGTH), generator=random)
    return tokens, (tokens < VOCABULARY // 2).sum(1).gt(LENGTH // 2).long()


def sources(_config: ReviewsConfig):
    digest = hashlib.sha256(data(256, 0)[0].numpy().tobytes()).hexdigest()
    return [DataSource("made-up-reviews", "train", "generated", digest, {"reviews": 256})]


def network(config: ReviewsConfig):
    return BertForSequenceClassification(
        BertConfig(vocab_size=VOCABULARY, hidden_size=config.width, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, max_position_embeddings=LENGTH, hidden_dropout_prob=config.dropout,
                   attention_probs_dropout_prob=config.dropout)
    )  # fmt: skip


def loss_of(model, batch):
    return model(input_ids=batch["tokens"], labels=batch["labels"]).loss


def train(config, run):
    accelerator, checkpoint = run.accelerator, run
    tokens, labels = data(256, 0)
    held, held_labels = data(64, 1)
    reseed(config.seed)
    model = network(config)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=config.learning_rate))
    progress = checkpoint.restore(model, optimizer)
    lean = lean_backward(model, loss_of, config.remat, accelerator)
    for epoch in range(progress.epoch, config.epochs):
        reseed(config.seed, epoch, accelerator.process_index)
        model.train()
        losses = []
        for part in torch.randperm(256).split(32)[accelerator.process_index :: accelerator.num_processes]:
            batch = {"tokens": tokens[part], "labels": labels[part]}
            if lean is not None:
                loss = lean(batch)
            else:
                loss = loss_of(model, batch)
                accelerator.backward(loss)
            losses.append(loss.detach())
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            right = (model(input_ids=held).logits.argmax(1) == held_labels).float().mean()
        progress.epoch = epoch + 1
        yield Record(epoch, {"train/loss": float(torch.stack(losses).mean()), "validation/accuracy": float(right)})


def example(config: ReviewsConfig, batch_size: int) -> Example:
    tokens, labels = data(batch_size, 2)
    return Example(network(config), {"tokens": tokens, "labels": labels}, loss_of)


TASK = Task(name="reviews", config=ReviewsConfig, function=train, default=Path("configs/reviews/synthetic.yaml"),
            score=Score("validation/accuracy"), sources=sources, example=example)  # fmt: skip
TASKS = (TASK,)

if __name__ == "__main__":
    run_tasks(TASKS, "projects.reviews")

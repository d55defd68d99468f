"""A typical script: digits, a small CNN, argparse, tqdm, StepLR, torch.save."""
import math
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from labtrail.record import Score
import labtrail as lt
from labtrail.running.cli import run_tasks
from labtrail.record import Record
from labtrail.running.seeding import reseed
from labtrail.running.task import Task


class Net(nn.Module):
    def __init__(self, width=16, dropout=0.2):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width * 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(width * 2)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width * 2 * 4, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.bn(self.conv2(x))), 2)
        return self.fc(self.dropout(x.flatten(1)))


class Config(lt.Config):
    epochs: int = 10
    """passes over the train split"""
    batch_size: int = 64
    """images of an update"""
    lr: float = 1e-2
    """learning rate"""
    width: int = 16
    """channels"""
    dropout: float = 0.2
    """dropout rate"""


def get_loaders(args):
    data = load_digits()
    x = torch.tensor(data.images / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(data.target)
    x1, x2, y1, y2 = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    train = DataLoader(TensorDataset(x1, y1), batch_size=args.batch_size, shuffle=True)
    test = DataLoader(TensorDataset(x2, y2), batch_size=256)
    return train, test


def train_one_epoch(model, loader, optimizer, device, epoch):
    model.train()
    total, correct, n = 0.0, 0, 0
    for x, y in tqdm(loader, desc=f"epoch {epoch}", leave=False):
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        out = model(x)
        loss = F.cross_entropy(out, y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(y)
        correct += (out.argmax(1) == y).sum().item()
        n += len(y)
    return total / n, correct / n


@torch.no_grad()
def evaluate(model, loader, device):
    model.eval()
    total, correct, n = 0.0, 0, 0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        out = model(x)
        total += F.cross_entropy(out, y, reduction="sum").item()
        correct += (out.argmax(1) == y).sum().item()
        n += len(y)
    return total / n, correct / n


def train(config, run):
    accelerator, checkpoint = run.accelerator, run
    device = accelerator.device
    reseed(config.seed)
    train_loader, test_loader = get_loaders(config)
    model = Net(config.width, config.dropout).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    progress = checkpoint.restore(model, optimizer)
    # Nothing but model and optimizer is kept: the scheduler has to be rewritten as a function of the epoch.
    for epoch in range(progress.epoch, config.epochs):
        reseed(config.seed, epoch)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * epoch / config.epochs))
        loss, acc = train_one_epoch(model, train_loader, optimizer, device, epoch)
        val_loss, val_acc = evaluate(model, test_loader, device)
        progress.epoch = epoch + 1
        yield Record(epoch, {"train/loss": loss, "train/accuracy": acc,
                             "validation/loss": val_loss, "validation/accuracy": val_acc})


TASK = Task(name="plain", config=Config, function=train, default=Path("plain.yaml"), score=Score("validation/accuracy"))

if __name__ == "__main__":
    run_tasks([TASK], "plain_after")

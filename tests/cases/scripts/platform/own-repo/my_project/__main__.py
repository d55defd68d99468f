from pathlib import Path
import torch
from sklearn.datasets import load_breast_cancer
from labtrail.record import Score
from labtrail.running.cli import run_tasks
from labtrail.config import Config
from labtrail.record import Record
from labtrail.running.seeding import reseed
from labtrail.running.task import Task


class MyConfig(Config):
    epochs: int = 4
    """epochs"""
    smoothing: float = 0.0
    """label smoothing, a new option that is off"""
    lr: float = 0.01
    """rate"""


def train(config, run):
    accelerator, checkpoint = run.accelerator, run
    data = load_breast_cancer()
    x = torch.tensor((data.data - data.data.mean(0)) / data.data.std(0), dtype=torch.float32)
    y = torch.tensor(data.target)
    reseed(config.seed)
    model = torch.nn.Sequential(torch.nn.Linear(30, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=config.lr))
    progress = checkpoint.restore(model, optimizer)
    for epoch in range(progress.epoch, config.epochs):
        reseed(config.seed, epoch)
        for part in torch.randperm(len(y)).split(32):
            loss = torch.nn.functional.cross_entropy(model(x[part]), y[part])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        progress.epoch = epoch + 1
        with torch.no_grad():
            accuracy = float((model(x).argmax(1) == y).float().mean())
        yield Record(epoch, {"train/loss": float(loss), "validation/accuracy": accuracy})


TASK = Task(name="mine", config=MyConfig, function=train, default=Path("config.yaml"), score=Score("validation/accuracy"))
if __name__ == "__main__":
    run_tasks([TASK], "my_project")

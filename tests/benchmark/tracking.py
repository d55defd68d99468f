"""What tracking and checkpointing cost a training loop, against accelerate's own tracker called every step."""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import MLflowTracker

from labtrail import store
from labtrail.checkpoint import Checkpoint, Score
from labtrail.config import TaskConfig
from labtrail.record import Record
from labtrail.run import Identity, Run, claim
from tests.benchmark.timing import Row

EPOCHS = 12
STEPS = 12
WIDTH = 700


def rows() -> Iterator[Row]:
    """Wall seconds of a loop with epochs of over a second, 5.9 million weights and AdamW."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
        try:
            yield from _measure()
        finally:
            os.chdir(here)
            del os.environ["MLFLOW_TRACKING_URI"]


def _measure() -> Iterator[Row]:
    experiment = store.initialise(["bench"])["bench"]
    identity = Identity("bench", "bench", "bench", TaskConfig(), [], {})
    accelerator = Accelerator(cpu=True)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(12)]
    model = torch.nn.Sequential(*layers)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), fused=True))
    own = claim(store.connect(), identity, experiment, again=True)
    run = Run(own.run_id)
    run.start(identity)
    checkpoint = Checkpoint(run.folder / "checkpoints", accelerator, score=Score("validation/accuracy"))
    progress = checkpoint.restore(model)
    batch = torch.randn(512, WIDTH)

    def epoch() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            accelerator.backward(model(batch).square().mean())
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began

    epoch()
    plain, followed, foreground = [], [], []
    for index in range(EPOCHS):
        # Epochs after a save share the machine with its background writes; the others do not.
        checkpoint.flush()
        plain.append(epoch())
        progress.epoch += 1
        began = time.perf_counter()
        record = Record(index, {"train/loss": 1.0, "train/accuracy": 0.5, "validation/accuracy": float(index)})
        run.log(record, checkpoint.judge(record))
        checkpoint.save(record)
        foreground.append(time.perf_counter() - began)
        followed.append(epoch())
    checkpoint.flush()
    run.end("FINISHED")
    alone = statistics.median(plain)
    cost = statistics.median(foreground) + max(
        0.0, statistics.median(b - a for a, b in zip(plain, followed, strict=True))
    )

    tracker = MLflowTracker(experiment_name="bench")
    tracker.start()
    steps = []
    for step in range(STEPS):
        began = time.perf_counter()
        tracker.log({"train/loss": 1.0, "train/accuracy": 0.5}, step=step)
        steps.append(time.perf_counter() - began)
    tracker.finish()
    peer = statistics.median(steps) * STEPS
    print(
        f"  an epoch alone {alone:.2f} s; log and save each epoch, best included: "
        f"{statistics.median(foreground) * 1e3:.0f} ms waited for, {cost * 1e3:.0f} ms in all = {cost / alone:.2%} "
        f"(wanted: under 1 %); accelerate's MLflowTracker every step: {peer / alone:.2%}, without checkpoints"
    )
    yield Row("track and save an epoch, wall (MLflowTracker every step)", cost, peer, peer / cost, 0.0)
    yield Row("share of the loop left to training, wall (all of it)", alone, alone + cost, alone / (alone + cost), 0.99)

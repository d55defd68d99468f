"""What tracking and checkpointing cost a training loop, against accelerate's own tracker called every step."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.tracking import MLflowTracker

from labtrail.config import Config
from labtrail.record import Record, Score
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.claim import Identity, claim
from labtrail.running.launch import keep_freed_memory
from labtrail.running.writer import RunWriter
from labtrail.store import connection
from tests.benchmark.timing import Row

MakeOptimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]

EPOCHS = 24
STEPS = 25
WIDTH = 700


def rows() -> Iterator[Row]:
    """Wall seconds of a loop with epochs of over a second and as many weights as SPOTER has (5.9 million)."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        os.environ["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
        try:
            yield from _measure("SGD", lambda parameters: torch.optim.SGD(parameters, lr=1e-3, fused=True))
            yield from _measure("AdamW, 3 x the state", lambda parameters: torch.optim.AdamW(parameters, fused=True))
        finally:
            os.chdir(here)
            del os.environ["MLFLOW_TRACKING_URI"]


def _measure(
    name: str, make_optimizer: Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
) -> Iterator[Row]:
    keep_freed_memory()
    experiment = connection.initialise(["bench"])["bench"]
    identity = Identity("bench", "bench", "bench", Config(), [], {})
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(12)))
    model, optimizer = accelerator.prepare(model, make_optimizer(model.parameters()))
    run = RunWriter(claim(connection.current_store(), identity, experiment, again=True).run_id)
    run.start(identity)
    checkpoint = Checkpoint(run.folder / "checkpoints", accelerator, score=Score("validation/accuracy"))
    progress = checkpoint.restore(model, optimizer)
    batch = torch.randn(96, WIDTH)

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
        # Every fourth epoch is the best so far, more often than in most trainings.
        record = Record(index, {"train/loss": 1.0, "train/accuracy": 0.5, "validation/accuracy": index // 4})
        checkpoint.save(record, first=partial(run.log, record, checkpoint.note_best(record)))
        foreground.append(time.perf_counter() - began)
        followed.append(epoch())
    checkpoint.flush()
    run.end("FINISHED")
    alone = statistics.median(plain)
    slowed = statistics.median(after - before for before, after in zip(plain, followed, strict=True))
    cost = statistics.median(foreground) + max(0.0, slowed)
    peer = _mlflow_tracker_seconds() * STEPS
    share = f"{cost / alone:.2%} of an epoch of {alone:.2f} s; wanted: under 1 %"
    yield Row(f"track and save, {name} (MLflowTracker every step)", cost, peer, peer / cost, 0.0)
    yield Row(f"  of the wall time to training: {share}", alone, alone + cost, alone / (alone + cost), 0.99)


def _mlflow_tracker_seconds() -> float:
    """Wall seconds of one call of accelerate's tracker."""
    tracker = MLflowTracker(experiment_name="bench")
    tracker.start()
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        tracker.log({"train/loss": 1.0, "train/accuracy": 0.5}, step=step)
        seconds.append(time.perf_counter() - began)
    tracker.finish()
    return statistics.median(seconds)

"""The task spoter-attention: per-head weights of every clip of a split, at several epochs of a finished run."""

import io
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import Field

from labtrail import contract
from labtrail.config import Integers, TaskConfig
from labtrail.files import sha256_of
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.launch import require_one_process
from labtrail.running.record import DataSource, Record, named
from labtrail.running.task import Task
from projects.spoter.attention_file import to_bytes, to_samples
from projects.spoter.batches import to_inputs
from projects.spoter.capture import capture
from projects.spoter.data import load_splits
from projects.spoter.evaluate import interval, scores
from projects.spoter.subject import (
    TRAINING,
    chosen_epochs,
    load_subject,
    network,
    split_of,
    study_sources,
    weights_name,
)

NAME = "spoter-attention"
FOLDER = "attention"


class AttentionConfig(TaskConfig):
    """Whose attention is extracted, and where it looks."""

    run: str = contract.LATEST
    """finished training run: its id, 'latest', or an MLflow filter that one run meets"""
    epochs: Integers = ()
    """epochs, as 10,50,100; 0 is the network before training; empty: all whose checkpoints the run kept"""
    split: Literal["train", "validation", "test"] = "test"
    """which of the run's splits"""
    max_frames: int = Field(default=1024, ge=1)
    """frames that are computed at once"""
    export_pt: bool = False
    """also writes attention_epochNNN.pt, one dictionary of float32 tensors per clip (about twice the size)"""


def resolve(config: AttentionConfig) -> AttentionConfig:
    """The config with the run's id and the epochs written out."""
    from labtrail.query.find import find_run

    run_id = find_run(config.run, TRAINING)["run_id"]
    return config.model_copy(update={"run": run_id, "epochs": chosen_epochs(run_id, config.epochs)})


def sources(config: AttentionConfig) -> Sequence[DataSource]:
    """The split and the checkpoints."""
    return study_sources(load_subject(config.run), config.split, config.epochs)


def extract(config: AttentionConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:  # noqa: ARG001
    """One Record per epoch: the split's scores, and the file of its weights."""
    from labtrail.query.find import artifact

    require_one_process(accelerator, NAME)
    subject = load_subject(config.run)
    splits = load_splits(subject.config.data)
    split = split_of(splits, config.split)
    inputs = to_inputs(split.clips.frames, split.clips.lengths, split.labels, accelerator.device)
    for epoch in config.epochs:
        model = network(subject, epoch, splits.classes).to(accelerator.device)
        captured = capture(model, inputs, config.max_frames)
        metrics = scores(captured.logits.float().numpy(), split.labels)
        metrics |= interval("accuracy", metrics["accuracy"], len(split.clips))
        facts = {
            "run": subject.run_id,
            "epoch": epoch,
            "split": config.split,
            "classes": splits.classes,
            "first_label": splits.first_label,
            "layers": subject.config.model.layers,
            "positions": subject.config.model.positions,
            "checkpoint_sha256": sha256_of(artifact(subject.run_id, weights_name(epoch))),
            "data_sha256": split.clips.digest,
            "torch": str(torch.__version__),
        }
        files: dict[str, Any] = {file_name(epoch): to_bytes(captured, split.labels, facts)}
        if config.export_pt:
            buffer = io.BytesIO()
            torch.save(to_samples(captured, split.labels, facts), buffer)
            files[f"{FOLDER}/attention_epoch{epoch:03d}.pt"] = buffer.getvalue()
        yield Record(epoch, named(config.split, metrics), files)


def file_name(epoch: int) -> str:
    """Artifact path of an epoch's attention."""
    return f"{FOLDER}/epoch_{epoch:03d}.safetensors"


def title(config: AttentionConfig) -> str:
    """Short name of the run: ``attention-test-1a2b3c4d``."""
    return f"attention-{config.split}-{config.run[:8]}"


TASK = Task(
    name=NAME,
    config=AttentionConfig,
    function=extract,
    default=Path("configs/spoter-attention/default.yaml"),
    resolve=resolve,
    sources=sources,
    title=title,
    experiment="spoter",
)

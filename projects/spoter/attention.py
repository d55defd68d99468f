"""The task spoter-attention: per-head weights of every clip of a split, at several epochs of a finished run."""

import io
from collections.abc import Generator, Sequence
from typing import Any

import torch

import labtrail as lt
from projects.spoter.attention_file import to_bytes, to_samples
from projects.spoter.batches import to_inputs
from projects.spoter.capture import capture
from projects.spoter.config import AttentionConfig
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

FOLDER = "attention"


def resolve(config: AttentionConfig) -> AttentionConfig:
    """The config with the run's id and the epochs written out."""
    run_id = lt.find_run(config.run, TRAINING)["run_id"]
    return config.model_copy(update={"run": run_id, "epochs": chosen_epochs(run_id, config.epochs)})


def sources(config: AttentionConfig) -> Sequence[lt.DataSource]:
    """The split and the checkpoints."""
    return study_sources(load_subject(config.run), config.split, config.epochs)


def extract(config: AttentionConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record per epoch: the split's scores, and the file of its weights."""
    subject = load_subject(config.run)
    splits = load_splits(subject.config.data)
    split = split_of(splits, config.split)
    inputs = to_inputs(split.clips.frames, split.clips.lengths, split.labels, run.accelerator.device)
    for epoch in config.epochs:
        model = network(subject, epoch, splits.classes).to(run.accelerator.device)
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
            "checkpoint_sha256": lt.sha256_of(lt.artifact(subject.run_id, weights_name(epoch))),
            "data_sha256": split.clips.digest,
            "torch": str(torch.__version__),
        }
        files: dict[str, Any] = {file_name(epoch): to_bytes(captured, split.labels, facts)}
        if config.export_pt:
            buffer = io.BytesIO()
            torch.save(to_samples(captured, split.labels, facts), buffer)
            files[f"{FOLDER}/attention_epoch{epoch:03d}.pt"] = buffer.getvalue()
        yield lt.Record(epoch, lt.named(config.split, metrics), files)


def file_name(epoch: int) -> str:
    """Artifact path of an epoch's attention."""
    return f"{FOLDER}/epoch_{epoch:03d}.safetensors"

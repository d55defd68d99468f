"""A study made in memory: no store, no run, a few generated clips and a small network."""

from pathlib import Path

import numpy as np
import torch

from projects.spoter.attention_file import AttentionFile, to_bytes
from projects.spoter.batches import Inputs, to_inputs
from projects.spoter.capture import capture
from projects.spoter.clips import Clips
from projects.spoter.config import AnalysisConfig, ModelConfig, SpoterConfig
from projects.spoter.data import Split, Splits
from projects.spoter.interpret.study import Study
from projects.spoter.model import Spoter
from projects.spoter.subject import Subject
from projects.spoter.synthetic import SyntheticConfig, generate

CPU = torch.device("cpu")
SMALL = ModelConfig(layers=2, feed_forward=32)


def small_model(classes: int = 4, seed: int = 0, **changes: object) -> Spoter:
    torch.manual_seed(seed)
    return Spoter(SMALL.model_copy(update=changes), classes).eval()


def random_inputs(lengths: list[int], classes: int = 4, seed: int = 0) -> Inputs:
    generator = np.random.default_rng(seed)
    frames = generator.uniform(0.1, 0.9, (sum(lengths), 54, 2))
    return to_inputs(frames, np.array(lengths), generator.integers(0, classes, len(lengths)), CPU)


def small_split(name: str, classes: int = 4, count: int = 8) -> Split:
    size = SyntheticConfig(classes=classes, train=count, validation=count, test=count, frames=9)
    clips, labels = generate(name, size)
    lengths = np.array([len(clip) for clip in clips])
    return Split(name, Clips(np.concatenate(clips), lengths, labels, "0" * 64, "synthetic"), labels)


class MemoryStudy(Study):
    """A study whose networks are drawn, not loaded: another one at each epoch."""

    def model(self, epoch: int) -> Spoter:
        return small_model(self.splits.classes, seed=epoch)


def memory_study(folder: Path, config: AnalysisConfig | None = None, epochs: tuple[int, ...] = (1, 2)) -> Study:
    train, validation, test = (small_split(name) for name in ("train", "validation", "test"))
    splits = Splits(train, validation, test, 4, 1)
    inputs = to_inputs(test.clips.frames, test.clips.lengths, test.labels, CPU)
    files = {}
    for epoch in epochs:
        path = folder / f"epoch_{epoch:03d}.safetensors"
        path.write_bytes(to_bytes(capture(small_model(seed=epoch), inputs, 64), test.labels, {"epoch": epoch}))
        files[epoch] = AttentionFile(path)
    subject = Subject("f" * 32, "in-memory", SpoterConfig(model=SMALL))
    config = config or AnalysisConfig(epochs=epochs)
    names = ["book", "drink", "computer", "before"]
    return MemoryStudy(config, "a" * 32, subject, splits, test, inputs, files, np.arange(8), names, True)

"""SPOTER's rows: parsing, cached loading, normalisation, training and evaluation."""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.nn import functional as F

from labtrail.running.updater import Updater
from projects.spoter.batches import Inputs, epoch_updates, to_inputs
from projects.spoter.clips import load_clips, parse_csv
from projects.spoter.config import ModelConfig, SyntheticConfig, TrainConfig
from projects.spoter.evaluate import predict
from projects.spoter.model import Spoter
from projects.spoter.normalise import normalise
from projects.spoter.synthetic import write_split
from projects.spoter.train import make_optimizer, train_epoch, update_loss
from tests.benchmark import plain_spoter
from tests.benchmark.timing import Row, compare

CLASSES = 100
# The size of WLASL100's test split: 258 clips of 61 frames on average.
SIZE = SyntheticConfig(classes=CLASSES, train=100, test=258, frames=61)
TRAINED_CLIPS = 16


def rows() -> Iterator[Row]:
    """Each row against the plain reference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_split("test", SIZE, folder)
        yield from _reading(path, folder / "cache")
        yield from _network(path)


def _reading(path: Path, cache: Path) -> Iterator[Row]:
    megabytes = path.stat().st_size / 1e6
    literal = compare(
        f"parse a CSV of {len(parse_csv(path, 'labels'))} clips, {megabytes:.0f} MB (per-cell literals)",
        lambda: parse_csv(path, "labels"),
        lambda: plain_spoter.parse(path),
        10,
        repeats=3,
        reference_repeats=1,
    )
    yield literal
    cached = compare(
        "load it again from the cache (per-cell literals)",
        lambda: load_clips(path, "labels", cache),
        lambda: None,
        1000,
    )
    yield Row(cached.name, cached.ours, literal.reference, literal.reference / cached.ours, 1000)

    clips, plain = parse_csv(path, "labels"), plain_spoter.parse(path)[:40]
    frames = int(clips.lengths[:40].sum())
    yield compare(
        "normalise 40 clips (loops over frames and joints)",
        lambda: normalise(clips.frames[:frames], clips.lengths[:40]),
        lambda: [plain_spoter.normalise(clip) for clip, _ in plain],
        20,
        reference_repeats=3,
    )


def _network(path: Path) -> Iterator[Row]:
    clips = parse_csv(path, "labels")
    accelerator = Accelerator(cpu=True)
    inputs = to_inputs(clips.frames, clips.lengths, clips.labels - 1, accelerator.device)
    torch.manual_seed(0)
    model = Spoter(ModelConfig(), CLASSES)
    peer = plain_spoter.PlainSpoter(CLASSES)
    few = _first(inputs, TRAINED_CLIPS)
    per_clip = [(inputs.frames[s : s + n].view(n, 54, 2), y[None]) for s, n, y in zip(*_places(few), strict=True)]
    peer_optimizer = torch.optim.SGD(peer.parameters(), lr=1e-3)

    def peer_epoch() -> None:
        peer.train()
        for clip, label in per_clip:
            peer_optimizer.zero_grad()
            F.cross_entropy(peer(clip), label).backward()
            peer_optimizer.step()

    def own_epoch(batch_size: int, precision: Accelerator = accelerator) -> None:
        config = TrainConfig(batch_size=batch_size)
        plan = epoch_updates(TRAINED_CLIPS, batch_size, 0, 0)
        loss = functools.partial(update_loss, config.label_smoothing)
        updater = Updater(model, make_optimizer(model, config), loss, precision)
        model.train()
        train_epoch(updater, few, plan, [1e-3] * len(plan), config.max_frames, precision, "")

    yield compare("train, batch 1 (nn.Transformer)", lambda: own_epoch(1), peer_epoch, 1.25, repeats=9)
    yield compare("train, packed batch 8 (nn.Transformer, batch 1)", lambda: own_epoch(8), peer_epoch, 1.5, repeats=9)

    def peer_evaluation() -> None:
        peer.eval()
        for clip, label in zip(plain_clips, few.labels, strict=True):
            peer(plain_spoter.normalise(clip).float()).argmax(1).eq(label)

    def own_evaluation() -> np.ndarray:
        frames = int(clips.lengths[:TRAINED_CLIPS].sum())
        own = to_inputs(clips.frames[:frames], clips.lengths[:TRAINED_CLIPS], clips.labels - 1, accelerator.device)
        return predict(model, own, CLASSES, 1024, accelerator)

    plain_clips = [clip for clip, _ in plain_spoter.parse(path)[:TRAINED_CLIPS]]
    yield compare(
        "evaluate from raw clips (loops, nn.Transformer, batch 1)", own_evaluation, peer_evaluation, 2.2, repeats=9
    )

    def peer_forward() -> None:
        peer.eval()
        for clip, _ in per_clip:
            peer(clip)

    yield compare(
        "evaluate, network alone (nn.Transformer, batch 1)",
        lambda: predict(model, few, CLASSES, 1024, accelerator),
        peer_forward,
        1.0,
        repeats=9,
    )


def _first(inputs: Inputs, count: int) -> Inputs:
    return inputs._replace(lengths=inputs.lengths[:count], starts=inputs.starts[:count], labels=inputs.labels[:count])


def _places(inputs: Inputs) -> tuple[list[int], list[int], torch.Tensor]:
    return inputs.starts.tolist(), inputs.lengths.tolist(), inputs.labels

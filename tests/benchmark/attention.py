"""Attention's rows: capture against one clip at a time, the size of a file, and reading one clip of it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load

from projects.spoter.attention_file import AttentionFile, to_bytes
from projects.spoter.batches import Inputs, to_inputs
from projects.spoter.capture import capture
from projects.spoter.clips import parse_csv
from projects.spoter.config import ModelConfig
from projects.spoter.model import Spoter
from projects.spoter.synthetic import write_split
from tests.benchmark import plain_spoter
from tests.benchmark.spoter import CLASSES, SIZE
from tests.benchmark.timing import Row, compare, cpu_seconds

_CLIPS = 258
_FRAMES = 1024
_MEGABYTES, _MILLISECONDS = 130, 5.0


def rows() -> Iterator[Row]:
    """A split of WLASL100's test size: 258 clips of 61 frames on average."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = parse_csv(write_split("test", SIZE, folder), "labels")
        inputs = to_inputs(clips.frames, clips.lengths, clips.labels - 1, torch.device("cpu"))
        torch.manual_seed(0)
        model = Spoter(ModelConfig(), CLASSES).eval()
        few = inputs._replace(lengths=inputs.lengths[:_CLIPS], starts=inputs.starts[:_CLIPS])
        yield from _capturing(model, few)
        yield from _file(model, inputs, folder)


def _capturing(model: Spoter, few: Inputs) -> Iterator[Row]:
    peer = plain_spoter.PlainSpoter(CLASSES).eval()
    per_clip = [
        few.frames[start : start + length].view(-1, 54, 2)
        for start, length in zip(few.starts, few.lengths, strict=True)
    ]
    yield compare(
        f"capture attention of {_CLIPS} clips (nn.Transformer, need_weights)",
        lambda: capture(model, few, _FRAMES),
        lambda: _peer_capture(peer, per_clip),
        1.8,
        repeats=3,
    )
    yield compare(
        "the same (this network, one clip at a time)",
        lambda: capture(model, few, _FRAMES),
        lambda: capture(model, few, 1),
        1.0,
        repeats=3,
    )


@torch.inference_mode()
def _peer_capture(peer: plain_spoter.PlainSpoter, clips: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Every attention module is asked for its weights, as a script on top of the published code would."""
    found: list[dict[str, torch.Tensor]] = []
    modules = {name: one for name, one in peer.named_modules() if isinstance(one, torch.nn.MultiheadAttention)}
    plain = {name: one.forward for name, one in modules.items()}

    def asking(name: str):
        def forward(*arguments, **options):
            options |= {"need_weights": True, "average_attn_weights": False}
            output, weights = plain[name](*arguments, **options)
            found[-1][name] = weights.squeeze(0).half()
            return output, weights

        return forward

    try:
        for name, module in modules.items():
            module.forward = asking(name)
        for clip in clips:
            found.append({})
            peer(clip)
    finally:
        for module in modules.values():
            del module.forward
    return found


def _file(model: Spoter, inputs: Inputs, folder: Path) -> Iterator[Row]:
    captured = capture(model, inputs, _FRAMES)
    content = to_bytes(captured, inputs.labels.numpy(), {})
    path = folder / "epoch_000.safetensors"
    path.write_bytes(content)
    megabytes = len(content) / 1e6
    file = AttentionFile(path)
    longest = int(inputs.lengths.argmax())
    read = compare(
        f"read a clip of {inputs.lengths[longest]} frames (load the file, {megabytes:.0f} MB)",
        lambda: file.clip(longest),
        lambda: load(path.read_bytes()),
        5.0,
        repeats=9,
    )
    yield read
    opened = compare(
        "open the file and read its first clip (load the file)",
        lambda: AttentionFile(path).clip(0),
        lambda: load(path.read_bytes()),
        5.0,
        repeats=9,
    )
    yield opened
    yield Row(f"least MB a file of {len(file)} clips keeps free of {_MEGABYTES}", 0.0, 0.0, _MEGABYTES / megabytes, 1.0)
    yield Row(f"{_MILLISECONDS:g} ms over the time of a mean clip", *_mean_clip(file))


def _mean_clip(file: AttentionFile) -> tuple[float, float, float, float]:
    for clip in range(len(file)):
        file.clip(clip)
    seconds = cpu_seconds(lambda: [file.clip(clip) for clip in range(len(file))]) / len(file)
    return seconds, _MILLISECONDS / 1e3, _MILLISECONDS / 1e3 / seconds, 1.0

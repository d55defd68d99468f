"""SPOTER written the plain way: literal parsing of cells, loops over frames and joints, nn.Transformer, batch 1."""

import ast
import csv
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from projects.spoter.skeleton import BODY, HAND, JOINTS

csv.field_size_limit(1 << 30)

Frame = dict[str, tuple[float, float]]


def parse(path: Path) -> list[tuple[list[Frame], int]]:
    """Clips as lists of frames, and their labels."""
    clips = []
    names = [name.replace("_0", "_left").replace("_1", "_right") for name in JOINTS]
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            xs = {joint: ast.literal_eval(row[f"{name}_X"]) for joint, name in zip(JOINTS, names, strict=True)}
            ys = {joint: ast.literal_eval(row[f"{name}_Y"]) for joint, name in zip(JOINTS, names, strict=True)}
            length = len(xs["nose"])
            frames = [{joint: (xs[joint][t], ys[joint][t]) for joint in JOINTS} for t in range(length)]
            clips.append((frames, int(row["labels"])))
    return clips


def normalise(frames: list[Frame]) -> Tensor:
    """One clip, frame by frame and joint by joint, shape (T, 54, 2)."""
    box = None
    result = []
    for frame in frames:
        box = _box(frame) or box
        own = dict(frame)
        if box is not None:
            left, right, bottom, top = box
            if right != left and top != bottom:
                for joint in BODY:
                    x, y = frame[joint]
                    if x != 0:
                        own[joint] = ((x - left) / (right - left), (y - bottom) / (top - bottom))
        for side in "01":
            own |= _hand(frame, [f"{joint}_{side}" for joint in HAND])
        result.append([own[joint] for joint in JOINTS])
    return torch.tensor(result, dtype=torch.float64) - 0.5


def _box(frame: Frame) -> tuple[float, float, float, float] | None:
    left_shoulder, right_shoulder = frame["leftShoulder"], frame["rightShoulder"]
    neck, nose = frame["neck"], frame["nose"]
    if left_shoulder[0] != 0 and right_shoulder[0] != 0:
        a, b = left_shoulder, right_shoulder
    elif neck[0] != 0 and nose[0] != 0:
        a, b = neck, nose
    else:
        return None
    unit = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
    top = frame["leftEye"][1] + unit
    bottom = max(top - 6 * unit, 0)
    return max(neck[0] - 3 * unit, 0), max(neck[0] + 3 * unit, 0), bottom, max(top, 0)


def _hand(frame: Frame, joints: list[str]) -> Frame:
    xs = [frame[joint][0] for joint in joints if frame[joint][0] != 0]
    ys = [frame[joint][1] for joint in joints if frame[joint][1] != 0]
    if not xs or not ys:
        return {}
    width, height = max(xs) - min(xs), max(ys) - min(ys)
    margin = 0.1 * max(width, height)
    dx, dy = margin + max(height - width, 0) / 2, margin + max(width - height, 0) / 2
    size = width + 2 * dx
    if size == 0:
        return {}
    x0, y0 = min(xs) - dx, min(ys) - dy
    return {
        joint: ((frame[joint][0] - x0) / size, (frame[joint][1] - y0) / size)
        for joint in joints
        if frame[joint][0] != 0
    }


class _DecoderLayer(nn.TransformerDecoderLayer):
    """Without self-attention, as SPOTER has it."""

    def forward(self, tgt: Tensor, memory: Tensor, *_args: object, **_options: object) -> Tensor:
        tgt = self.norm1(tgt + self.dropout1(tgt))
        tgt = self.norm2(tgt + self.dropout2(self.multihead_attn(tgt, memory, memory, need_weights=False)[0]))
        return self.norm3(tgt + self.dropout3(self.linear2(self.dropout(F.relu(self.linear1(tgt))))))


class PlainSpoter(nn.Module):
    """nn.Transformer with that decoder layer; one clip (T, 54, 2) to logits (1, classes)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.rand(1, 1, 108))
        self.class_query = nn.Parameter(torch.rand(1, 108))
        encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(108, 9), 6, nn.LayerNorm(108), False)
        decoder = nn.TransformerDecoder(_DecoderLayer(108, 9), 6, nn.LayerNorm(108))
        self.transformer = nn.Transformer(108, 9, custom_encoder=encoder, custom_decoder=decoder)
        self.linear_class = nn.Linear(108, classes)

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.flatten(1).unsqueeze(1)
        hidden = self.transformer(self.pos + frames, self.class_query.unsqueeze(0))
        return self.linear_class(hidden).squeeze(0)

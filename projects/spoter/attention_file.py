"""Attention of a split at one epoch as a safetensors file: written whole, read one clip at a time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import labtrail as lt
from projects.spoter.capture import Captured, in_order, offsets_of

FORMAT = "spoter-attention-1"
_METADATA = "labtrail"


def to_bytes(captured: Captured, labels: np.ndarray, facts: Mapping[str, Any]) -> bytes:
    """The file's content.

    Tensors: ``enc_0`` .. ``dec_5`` (flat, clip after clip, head-major), ``offsets_enc`` and ``offsets_dec`` (int64,
    clips + 1), ``frames``, ``clips``, ``labels``, ``predictions`` (int64, one per clip). The metadata entry
    ``labtrail`` is JSON: the given facts with format, dtype, heads and modules.

    Args:
        captured: of all clips of the split.
        labels: shape (clips,), int64, classes counted from 0.
        facts: what else belongs to the numbers (run, epoch, digests).
    """
    columns = {
        "offsets_enc": offsets_of(captured.frames, captured.heads, "enc"),
        "offsets_dec": offsets_of(captured.frames, captured.heads, "dec"),
        "frames": captured.frames,
        "clips": np.arange(len(captured.frames)),
        "labels": labels,
        "predictions": captured.logits.argmax(1).numpy(),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values, np.int64)) for name, values in columns.items()}
    dtype = str(next(iter(captured.weights.values())).dtype).removeprefix("torch.")
    facts_of_file = {"format": FORMAT, "dtype": dtype, "heads": captured.heads, "modules": sorted(captured.weights)}
    return save({**captured.weights, **tensors}, metadata={_METADATA: json.dumps({**facts, **facts_of_file})})


class AttentionFile:
    """Reads an attention file; opening it reads its header and its columns, never its weights.

    Attributes:
        path: the file.
        facts: its metadata: run, epoch, split, digests, heads, modules.
        frames, labels, predictions: shape (clips,), int64.
        modules: the names of its attention modules, encoder first.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            DataError: the file is missing, damaged, or of another format.
        """
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
            self.facts: dict[str, Any] = json.loads((self._file.metadata() or {}).get(_METADATA, "{}"))
            if self.facts.get("format") != FORMAT:
                raise lt.DataError(f"{path}: not an attention file of format {FORMAT}; extract it again")
            self.frames, self.labels, self.predictions = (
                self._file.get_tensor(name) for name in ("frames", "labels", "predictions")
            )
            self._offsets = {kind: self._file.get_tensor(f"offsets_{kind}") for kind in ("enc", "dec")}
        except (OSError, SafetensorError, ValueError) as error:
            raise lt.DataError(f"{path}: not a readable attention file: {str(error).splitlines()[0]}") from error
        self.modules = in_order(self.facts["modules"])
        self.heads: int = self.facts["heads"]

    def __len__(self) -> int:
        return len(self.frames)

    def clip(self, index: int) -> dict[str, np.ndarray]:
        """Weights of one clip: module -> (H, queries, T), float32; reads only this clip's part of the file.

        Raises:
            IndexError: no such clip.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        length = int(self.frames[index])
        weights = {}
        for name in self.modules:
            offsets = self._offsets[name[:3]]
            part = self._file.get_slice(name)[int(offsets[index]) : int(offsets[index + 1])]
            weights[name] = part.astype(np.float32).reshape(self.heads, -1, length)
        return weights


def to_samples(captured: Captured, labels: np.ndarray, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same as one dictionary per clip, for scripts that load ``attention_epochNNN.pt`` with torch."""
    guesses = captured.logits.argmax(1).tolist()
    samples = []
    for index, label in enumerate(labels.tolist()):
        weights = {name: torch.from_numpy(part) for name, part in captured.clip(index).items()}
        frames = int(captured.frames[index])
        samples.append({"label": label, "prediction": guesses[index], "T": frames, "attention": weights})
    return {"metadata": dict(facts), "samples": samples}

"""The prepared rows in the forms that other scripts read: CSV and .pt shards, and manifests of the split."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import labtrail as lt
from projects.pamap2.config import PrepareConfig
from projects.pamap2.dataset import Dataset, bout_of_rows
from projects.pamap2.schema import COLUMNS
from projects.pamap2.splits import Shard, contiguous, shards_of

_LARGEST_SHARD = 20_000_000
_MANIFESTS = ("train", "val", "test")


def write_exports(config: PrepareConfig, dataset: Dataset, folder: Path) -> None:
    """Writes what ``export`` asks for below a folder; the same rows give the same bytes.

    Raises:
        DataError: a tensor shard would be larger than 20 MB.
    """
    bouts = bout_of_rows(dataset.seconds, dataset.subjects, dataset.activities)
    shards = shards_of(dataset.subjects, dataset.activities, bouts)
    for shard in shards:
        if config.export.csv:
            _write(folder / shard_path(shard), _to_csv(dataset, shard))
        if config.export.tensors:
            content = _to_tensor(dataset, shard)
            if len(content) > _LARGEST_SHARD:
                raise lt.DataError(f"{shard_path(shard, tensor=True)}: {len(content)} bytes, expected less than 20 MB")
            _write(folder / shard_path(shard, tensor=True), content)
    if config.export.manifests:
        split = config.split
        places = contiguous(shards, split.shares, split.window, split.guard_rows)
        for place, name in enumerate(_MANIFESTS):
            lines = [f"{shard_path(shard)},{(places[shard.rows] == place).sum()}\n" for shard in shards]
            kept = [line for line in lines if not line.endswith(",0\n")]
            _write(folder / "splits" / f"{name}.txt", "".join(kept).encode())


def shard_path(shard: Shard, tensor: bool = False) -> str:
    """``processed/subject_101/activity_1.csv``, or the tensor beside it in ``processed_tensors``."""
    root, suffix = ("processed_tensors", "pt") if tensor else ("processed", "csv")
    return f"{root}/subject_{shard.subject}/activity_{shard.activity}.{suffix}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _to_csv(dataset: Dataset, shard: Shard) -> bytes:
    table = pd.DataFrame(np.asarray(dataset.values[shard.rows]), columns=list(COLUMNS[2:]))
    table.insert(0, "subject_id", shard.subject)
    table.insert(1, "timestamp", dataset.seconds[shard.rows])
    table.insert(2, "activity_id", shard.activity)
    return table.to_csv(index=False, na_rep="NaN", lineterminator="\n").encode()


def _to_tensor(dataset: Dataset, shard: Shard) -> bytes:
    buffer = io.BytesIO()
    torch.save(torch.from_numpy(np.array(dataset.values[shard.rows])), buffer)
    return buffer.getvalue()

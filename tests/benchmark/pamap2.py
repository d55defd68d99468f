"""PAMAP2's rows: parsing, reloading, gathering windows, and training against the per-window way of doing it."""

import functools
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from labtrail.running.updater import Updater
from projects.pamap2.build import build
from projects.pamap2.config import ExportConfig, Pamap2Config, PrepareConfig, SplitConfig, SyntheticConfig
from projects.pamap2.dataset import Dataset, load_dataset
from projects.pamap2.export import write_exports
from projects.pamap2.folds import classes_of, make_folds
from projects.pamap2.inputs import CHANNELS, COLUMNS, NAMES, DeviceWindows, make_resident
from projects.pamap2.model import FusionModel
from projects.pamap2.recording import parse_recording
from projects.pamap2.synthetic import write_recordings
from projects.pamap2.train import train_epoch, update_loss
from tests.benchmark.timing import Row, compare

_SIZE = SyntheticConfig(subjects=4, activities=(1, 2, 3, 4, 5, 12), bouts=2, bout_s=40)
_WINDOW = 256


def rows() -> Iterator[Row]:
    """Recordings of 4 people, 6 activities, about 8 minutes each; windows of 256 rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_recordings(_SIZE, folder)
        yield from _parsing(next(source.rglob("*.dat")))
        split = SplitConfig(window=_WINDOW, step=128)
        config = PrepareConfig(export=ExportConfig(csv=True, tensors=True), split=split)
        build(source, folder / "prepared", "trailing", lambda data, place: write_exports(config, data, place))
        yield from _reloading(folder / "prepared")
        dataset = load_dataset(folder / "prepared")
        classes = classes_of(dataset)
        (fold,) = make_folds(dataset, split, 0)
        resident = make_resident(dataset.values, classes.labels, fold, _WINDOW, torch.device("cpu"))
        yield _gathering(dataset, classes.labels, fold.train, resident)
        yield _training(dataset, resident, fold, classes.labels, len(classes.ids))


def _parsing(path: Path) -> Iterator[Row]:
    content = path.read_bytes()
    megabytes = len(content) / 1e6

    def by_line() -> np.ndarray:
        return np.array([[float(text) for text in line.split()] for line in content.decode().splitlines()])

    def ours() -> object:
        return parse_recording(content, path.name)

    yield compare(
        f"parse and check {megabytes:.0f} MB of .dat (pandas.read_csv)",
        ours,
        lambda: pd.read_csv(io.BytesIO(content), sep=" ", header=None),
        2.5,
        repeats=5,
    )
    yield compare(f"parse and check {megabytes:.0f} MB of .dat (line by line)", ours, by_line, 10.0, repeats=3)


def _reloading(folder: Path) -> Iterator[Row]:
    tensors, tables = sorted(folder.rglob("*.pt")), sorted(folder.rglob("processed/**/*.csv"))

    def ours() -> float:
        return float(np.nansum(load_dataset(folder).values[::100]))

    yield compare(
        f"reload the data set ({len(tensors)} .pt shards, torch.load)",
        ours,
        lambda: [torch.load(path, weights_only=True) for path in tensors],
        8.0,
        repeats=9,
    )
    yield compare(
        f"reload the data set ({len(tables)} CSV shards, pandas)",
        ours,
        lambda: [pd.read_csv(path) for path in tables],
        100.0,
        repeats=3,
    )


class _Windows(TorchDataset):
    """One window an item, its modalities apart and cleaned of NaN, as a loader over windows has it."""

    def __init__(self, values: np.ndarray, labels: np.ndarray, starts: np.ndarray) -> None:
        self.values, self.labels, self.starts = values, labels, starts

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[dict[str, torch.Tensor], int]:
        start = int(self.starts[index])
        window = torch.from_numpy(self.values[start : start + _WINDOW])
        parts = zip(NAMES, window.split([9, 9, 9, 1], dim=1), strict=True)
        return {name: torch.nan_to_num(part) for name, part in parts}, int(self.labels[start])


def _gathering(dataset: Dataset, labels: np.ndarray, starts: np.ndarray, resident: DeviceWindows) -> Row:
    values = np.array(dataset.values[:, COLUMNS])
    loader = DataLoader(_Windows(values, labels, starts), batch_size=32, shuffle=True)

    def ours() -> None:
        order = np.random.default_rng(0).permutation(starts)
        for begin in range(0, len(order), 32):
            resident.windows(order[begin : begin + 32])

    return compare(f"batches of {len(starts)} windows (DataLoader)", ours, lambda: list(loader), 12.0, repeats=9)


class _Lstm(nn.Module):
    """One LSTM of width 256 for each modality, their last states joined."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sizes = (9, 9, 9, 1)
        self.sizes = sizes
        self.lstms = nn.ModuleList(nn.LSTM(size, 256, batch_first=True) for size in sizes)
        self.head = nn.Linear(256 * len(sizes), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.split(list(self.sizes), dim=-1)
        return self.head(torch.cat([lstm(part)[0][:, -1] for lstm, part in zip(self.lstms, parts, strict=True)], 1))


def _training(dataset: Dataset, resident: DeviceWindows, fold, labels: np.ndarray, classes: int) -> Row:
    few = fold.train[:64]
    config = Pamap2Config()
    model = FusionModel(config.model, CHANNELS, classes)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    own = type(fold)("bench", few, fold.validation, fold.test, fold.train_rows)
    loss = functools.partial(update_loss, config.train.label_smoothing)
    updater = Updater(model, optimizer, loss, Accelerator(cpu=True), clip_norm=config.train.clip_norm)
    peer = _Lstm(classes)
    peer_optimizer = AdamW(peer.parameters(), lr=1e-3)
    slow = few[:4]

    def peer_epoch() -> None:
        for start in slow:
            x = resident.values[start : start + _WINDOW][None]
            peer_optimizer.zero_grad()
            F.cross_entropy(peer(x), torch.tensor([int(labels[start])])).backward()
            peer_optimizer.step()

    return compare(
        "train, rows a second (LSTM of width 256, batch 1)",
        lambda: train_epoch(model, updater, resident, own, config, 0),
        peer_epoch,
        20.0,
        repeats=5,
        ours_per_reference=len(few) / len(slow),
    )

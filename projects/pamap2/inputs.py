"""Windows as the network reads them, gathered by index from one resident array.

An IMU channel is scaled within its window by median and interquartile range, which takes away how a sensor was
worn; the lengths of the acceleration and rotation vectors keep their absolute size. Then everything is put into
units of the training windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from projects.pamap2.folds import Fold
from projects.pamap2.schema import MODALITIES, PLACES, SENSORS

NAMES = tuple(MODALITIES)
CHANNELS = tuple(11 if name in PLACES else 1 for name in NAMES)
COLUMNS = tuple(SENSORS.index(channel) for channels in MODALITIES.values() for channel in channels)
_FLOOR = 1e-2
_CHUNK = 512


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each channel over training windows, one tensor (C,) per modality."""

    means: list[Tensor]
    deviations: list[Tensor]


@dataclass(frozen=True)
class DeviceWindows:
    """All rows that any window reads, on one device.

    Attributes:
        values: shape (N, 28), float32; missing values are the mean of the training rows.
        labels: class of each row, shape (N,), int64.
        window: rows of a window.
        scale: of the training windows.
    """

    values: Tensor
    labels: Tensor
    window: int
    scale: Scale

    def windows(self, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Raw windows (B, W, 28) and their classes (B,)."""
        first = torch.from_numpy(starts).to(self.values.device)
        rows, channels = self.values.shape
        # Every window is one run of memory: gathered so, and not row by row, it is copied at once.
        overlapping = self.values.as_strided((rows - self.window + 1, self.window * channels), (channels, 1))
        return overlapping.index_select(0, first).view(-1, self.window, channels), self.labels[first]

    def normalised(self, raw: Tensor) -> list[Tensor]:
        """Each modality's channels in units of the training windows, (B, W, C) each."""
        parts = transform(raw)
        return [
            (part - mean) / deviation
            for part, mean, deviation in zip(parts, self.scale.means, self.scale.deviations, strict=True)
        ]


def make_resident(
    values: np.ndarray, labels: np.ndarray, fold: Fold, window: int, device: torch.device
) -> DeviceWindows:
    """Imputes and scales by what the training rows tell, and nothing else.

    Args:
        values: sensors of all rows, shape (N, 52).
        labels: class of each row.
        fold: whose training rows and windows count.
        window: rows of a window.
        device: where the array goes.
    """
    chosen = np.array(values[:, COLUMNS])
    means = np.nanmean(chosen[fold.train_rows], axis=0)
    chosen = np.where(np.isnan(chosen), np.nan_to_num(means), chosen)
    # Row after row in memory, as `DeviceWindows.windows` counts on.
    resident = torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32)).to(device)
    plain = DeviceWindows(resident, torch.from_numpy(labels).to(device), window, Scale([], []))
    return DeviceWindows(plain.values, plain.labels, window, _scale(plain, fold.train))


def _scale(resident: DeviceWindows, starts: np.ndarray) -> Scale:
    sums = [torch.zeros(2, size, dtype=torch.float64, device=resident.values.device) for size in CHANNELS]
    for begin in range(0, len(starts), _CHUNK):
        for total, part in zip(sums, transform(resident.windows(starts[begin : begin + _CHUNK])[0]), strict=True):
            flat = part.flatten(0, 1).double()
            total.add_(torch.stack([flat.sum(0), flat.square().sum(0)]))
    rows = len(starts) * resident.window
    means = [total[0] / rows for total in sums]
    deviations = [(total[1] / rows - mean**2).clamp(min=1e-8).sqrt() for total, mean in zip(sums, means, strict=True)]
    return Scale([mean.float() for mean in means], [deviation.float() for deviation in deviations])


def transform(raw: Tensor) -> list[Tensor]:
    """Channels of each modality before scaling; raw windows (B, W, 28) to a list of (B, W, C)."""
    transformed = []
    for place in range(len(PLACES)):
        imu = raw[..., 9 * place : 9 * place + 9]
        ordered = imu.sort(dim=1).values
        low, middle, high = (ordered[:, round(share * (raw.shape[1] - 1))][:, None] for share in (0.25, 0.5, 0.75))
        lengths = [imu[..., first : first + 3].norm(dim=-1, keepdim=True) for first in (0, 3)]
        transformed.append(torch.cat([(imu - middle) / (high - low + _FLOOR), *lengths], dim=-1))
    return [*transformed, raw[..., 27:]]


def rotated(raw: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Windows whose IMUs are each turned at random, all their sensors alike: how a strap sits varies.

    Args:
        raw: shape (B, W, 28).
        degrees: standard deviation of the angle about a random axis.
        generator: on the CPU.
    """
    if degrees == 0:
        return raw
    axis = torch.randn(len(raw), len(PLACES), 3, generator=generator)
    axis = axis / axis.norm(dim=-1, keepdim=True)
    angle = torch.randn(len(raw), len(PLACES), 1, 1, generator=generator) * (degrees * torch.pi / 180)
    turns = torch.linalg.matrix_exp(angle * _cross(axis)).to(raw.device)
    imu = raw[..., :27].unflatten(2, (len(PLACES), 3, 3))
    turned = torch.einsum("bpij,bwpsj->bwpsi", turns, imu)
    return torch.cat([turned.flatten(2), raw[..., 27:]], dim=-1)


def _cross(axis: Tensor) -> Tensor:
    """Matrices of the cross product with each axis, (..., 3) to (..., 3, 3)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def subset_names(present: Sequence[bool]) -> str:
    """``hand+chest`` for the modalities that are there."""
    return "+".join(name for name, there in zip(NAMES, present, strict=True) if there)

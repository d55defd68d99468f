"""Images in memory: read once, split once, kept as bytes on the device, cut to batches there.

Shape suffixes: N images, B samples, C channels, H and W pixels.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from projects.distill.archives import Raw, read_cifar, read_svhn
from projects.distill.config import DataConfig
from projects.distill.tinyimagenet import read_tinyimagenet

_DIGITS_TEST = 0.2
_DIGITS_SEED = 0


@dataclass(frozen=True)
class Images:
    """One data set, split.

    Attributes:
        train, validation, test: images (N, C, H, W) uint8 and labels (N,) int64.
        classes: number of classes.
        flip: whether a mirrored image is as good as the image.
        mean, deviation: of each channel over the training images, in units of 0 .. 1.
    """

    train: Raw
    validation: Raw
    test: Raw
    classes: int
    flip: bool
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @cached_property
    def digests(self) -> dict[str, str]:
        """sha-256 of each split's images and labels."""
        return {
            name: hashlib.sha256(part.images.tobytes() + part.labels.tobytes()).hexdigest()
            for name, part in (("train", self.train), ("validation", self.validation), ("test", self.test))
        }


@lru_cache(maxsize=4)
def load_images(config: DataConfig) -> Images:
    """Reads a data set and holds part of its training images out, the same number in a hundred of every class.

    Raises:
        DataError: missing or damaged data.
    """
    data_set = DATA_SETS[config.name]
    whole, test = data_set.read(config.folder or Path("data") / config.name)
    chosen = _held_out(whole.labels, config.validation, config.split_seed)
    train = Raw(whole.images[~chosen], whole.labels[~chosen])
    moments = [_moments(train.images[:, channel]) for channel in range(train.images.shape[1])]
    return Images(
        train=train,
        validation=Raw(whole.images[chosen], whole.labels[chosen]),
        test=test,
        classes=data_set.classes,
        flip=data_set.flip,
        mean=tuple(mean for mean, _ in moments),
        deviation=tuple(max(deviation, 1e-6) for _, deviation in moments),
    )


def _moments(channel: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of bytes, in units of 0 .. 1, by counting them."""
    counts = np.bincount(channel.ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = float((counts * values).sum() / counts.sum())
    return mean, float(np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum()))


def _digits(_folder: Path) -> tuple[Raw, Raw]:
    """1,797 scanned digits (UCI, bundled with scikit-learn), each pixel doubled to 16 x 16; a fifth is for testing."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)[:, None]
    images = images.repeat(2, axis=2).repeat(2, axis=3)
    labels = digits.target.astype(np.int64)
    test = _held_out(labels, _DIGITS_TEST, _DIGITS_SEED)
    return Raw(images[~test], labels[~test]), Raw(images[test], labels[test])


def _cifar(folder: Path, classes: int) -> tuple[Raw, Raw]:
    archive = folder if folder.name.endswith(".tar.gz") else folder / f"cifar-{classes}-python.tar.gz"
    return read_cifar(archive, classes)


class DataSet(NamedTuple):
    """How a data set is read.

    Attributes:
        read: folder -> training and test images.
        classes: number of classes.
        flip: whether a mirrored image is as good as the image; a mirrored digit is another sign.
    """

    read: Callable[[Path], tuple[Raw, Raw]]
    classes: int
    flip: bool


# Another data set is a line here, and its name in ``DataName`` of config.py; to be fetched, a line in datasets.py.
DATA_SETS: Mapping[str, DataSet] = {
    "digits": DataSet(_digits, 10, flip=False),
    "cifar10": DataSet(partial(_cifar, classes=10), 10, flip=True),
    "cifar100": DataSet(partial(_cifar, classes=100), 100, flip=True),
    "svhn": DataSet(read_svhn, 10, flip=False),
    "tinyimagenet": DataSet(read_tinyimagenet, 200, flip=True),
}


def _held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A mask (N,) with this share of every class, rounded, at least one."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        mask[generator.permutation(places)[: max(1, round(share * len(places)))]] = True
    return mask


class DeviceImages:
    """One split's images on the device, padded once; batches are gathered there."""

    def __init__(self, raw: Raw, images: Images, device: torch.device) -> None:
        """
        Args:
            raw: one of the splits.
            images: the data set, for its scale and whether to flip.
            device: where the bytes go.
        """
        self._side = raw.images.shape[2]
        self._pad = self._side // 8
        pad = self._pad
        padded = np.pad(raw.images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        # Channels last, as one row of pixels is gathered at a time.
        self._padded = torch.from_numpy(np.ascontiguousarray(padded.transpose(0, 2, 3, 1))).to(device)
        self.labels = torch.from_numpy(raw.labels).to(device)
        self._mean = torch.tensor(images.mean, device=device) * 255
        self._scale = 1 / (torch.tensor(images.deviation, device=device) * 255)
        self._flip = images.flip

    def __len__(self) -> int:
        return len(self.labels)

    def normalized(self, index_B: Tensor) -> Tensor:
        """Normalised images (B, C, H, W), float32, in channels-last memory."""
        end = self._pad + self._side
        chosen = self._padded[index_B.to(self._padded.device)]
        return self._normalised(chosen[:, self._pad : end, self._pad : end])

    def augmented(self, index_B: Tensor, generator: torch.Generator) -> Tensor:
        """The same, each cropped at random from its padded image and, where that is as good, mirrored at random.

        Args:
            index_B: which images.
            generator: on the CPU, so that every device draws alike.
        """
        count, device = len(index_B), self._padded.device
        shift = torch.randint(2 * self._pad + 1, (2, count), generator=generator).to(device)
        mirrored = (torch.rand(count, generator=generator) < 0.5).to(device) if self._flip else None
        chosen = self._crops()[index_B.to(device), shift[0], shift[1]]
        if mirrored is not None:
            chosen = torch.where(mirrored[:, None, None, None], chosen.flip(2), chosen)
        return self._normalised(chosen)

    def _crops(self) -> Tensor:
        """A view of every crop of every image, (N, shifts, shifts, H, W, C): one is copied in whole rows."""
        image, line, pixel, channel = self._padded.stride()
        shifts, size = 2 * self._pad + 1, (self._side, self._side, self._padded.shape[3])
        return self._padded.as_strided((len(self), shifts, shifts, *size), (image, line, pixel, line, pixel, channel))

    def _normalised(self, bytes_BHWC: Tensor) -> Tensor:
        return ((bytes_BHWC.float() - self._mean) * self._scale).permute(0, 3, 1, 2)

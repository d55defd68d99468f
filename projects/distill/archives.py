"""The official archives of the image sets, read with checks: nothing in them is trusted, nothing is executed."""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat

import labtrail as lt

# What NumPy arrays in a pickle are made of, under the names of NumPy 1 and 2; nothing else may be looked up.
_HARMLESS = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
    ("builtins", "bytes"),
}


class Raw(NamedTuple):
    """Images as an archive has them.

    Attributes:
        images: shape (N, C, H, W), uint8.
        labels: shape (N,), int64, 0 .. classes - 1.
    """

    images: np.ndarray
    labels: np.ndarray


class _Unpickler(pickle.Unpickler):
    """Rebuilds arrays, texts and containers; any other name in the file is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no image archive needs")
        return super().find_class(module, name)


def read_cifar(path: Path, classes: int) -> tuple[Raw, Raw]:
    """Train and test images of cifar-10-python.tar.gz or cifar-100-python.tar.gz.

    Args:
        path: the archive.
        classes: 10 or 100 (the fine labels).

    Raises:
        DataError: missing, damaged, unsafe, or with other content than the official layout.
    """
    members = _tar_members(path)
    train = [name for name in sorted(members) if name.startswith("data_batch") or name == "train"]
    test = [name for name in sorted(members) if name in ("test_batch", "test")]
    if not train or not test:
        names = ", ".join(sorted(members)) or "nothing"
        raise lt.DataError(f"{path}: expected data_batch_1 .. 5 and test_batch, or train and test; found {names}")
    key = b"labels" if classes == 10 else b"fine_labels"
    parts = [_cifar_part(f"{path}/{name}", members[name], key, classes) for name in train]
    whole = Raw(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
    return whole, _cifar_part(f"{path}/{test[0]}", members[test[0]], key, classes)


def _tar_members(path: Path) -> dict[str, bytes]:
    """Last part of the name -> content; reading to the end of the stream checks its CRC."""
    if not path.is_file():
        raise lt.DataError(f"{path}: expected the official archive, found nothing there; fetch it first")
    try:
        with gzip.open(path) as stream:
            content = stream.read()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = {}
            for member in archive:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    raise lt.DataError(f"{path}: expected names inside the archive, found {member.name!r}")
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None:
                    members[name.name] = stream.read()
            return members
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise lt.DataError(
            f"{path}: expected a whole tar.gz archive, found it damaged: {error}; fetch it again"
        ) from error


def _cifar_part(name: str, content: bytes, key: bytes, classes: int) -> Raw:
    try:
        # A restricted unpickler: the official files are pickles.
        content_of_part = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:
        raise lt.DataError(f"{name}: expected a pickled batch of images, found it unreadable: {error}") from error
    by_name = (
        {k.encode() if isinstance(k, str) else k: v for k, v in content_of_part.items()}
        if isinstance(content_of_part, dict)
        else {}
    )
    images, labels = by_name.get(b"data"), by_name.get(key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072 or images.dtype != np.uint8:
        shape = getattr(images, "shape", type(images).__name__)
        raise lt.DataError(f"{name}: expected images of 3072 bytes, found {shape}")
    return _checked(name, images.reshape(-1, 3, 32, 32), labels, classes)


def _checked(name: str, images: np.ndarray, labels: Any, classes: int) -> Raw:
    try:
        label_array = np.asarray(labels).reshape(-1).astype(np.int64)
    except (TypeError, ValueError):
        label_array = np.zeros(0, dtype=np.int64)
    if len(label_array) != len(images):
        raise lt.DataError(f"{name}: expected a label for each of {len(images)} images, found {len(label_array)}")
    wrong = np.flatnonzero((label_array < 0) | (label_array >= classes))
    if wrong.size:
        place = int(wrong[0])
        raise lt.DataError(
            f"{name}: image {place}: expected a label from 0 to {classes - 1}, found {label_array[place]}"
        )
    return Raw(np.ascontiguousarray(images), label_array)


def read_svhn(folder: Path) -> tuple[Raw, Raw]:
    """Train and test images of train_32x32.mat and test_32x32.mat; label 10 is the digit 0.

    Raises:
        DataError: missing, damaged, or of another layout.
    """
    train, test = (read_mat(folder / f"{part}_32x32.mat") for part in ("train", "test"))
    return train, test


def read_mat(path: Path) -> Raw:
    """One of SVHN's two files.

    Raises:
        DataError: missing, damaged, or of another layout.
    """
    if not path.is_file():
        raise lt.DataError(f"{path}: expected the official file, found nothing there; fetch it first")
    try:
        matrices: Mapping[str, Any] = loadmat(path, variable_names=["X", "y"])
        images, labels = matrices["X"], matrices["y"].reshape(-1)
    except Exception as error:
        raise lt.DataError(f"{path}: expected a MATLAB file with X and y: {error}; fetch it again") from error
    if images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        raise lt.DataError(
            f"{path}: expected images of shape (32, 32, 3, N), uint8; found {images.shape}, {images.dtype}"
        )
    return _checked(str(path), images.transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels), 10)

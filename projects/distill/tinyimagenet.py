"""TinyImageNet from its official folder or zip; decoded once, then kept as arrays keyed by what was read."""

import io
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

import labtrail as lt
from projects.distill.archives import Raw

_CACHE = Path("data/cache/distill")
_ROOT = "tiny-imagenet-200"
_SIDE = 64
_LABELS = ("wnids.txt", "val/val_annotations.txt")


def read_tinyimagenet(folder: Path) -> tuple[Raw, Raw]:
    """Train and test images; the labelled validation folder is the test set, as everywhere in the literature.

    Args:
        folder: holds tiny-imagenet-200/ or tiny-imagenet-200.zip, or is tiny-imagenet-200 itself.

    Raises:
        DataError: missing, damaged, or of another layout.
    """
    with _opened(folder) as (names, sizes, read):
        labels = [read(name).decode(errors="replace") for name in _LABELS if name in names]
        if len(labels) < len(_LABELS):
            raise lt.DataError(
                f"{folder}: expected {' and '.join(_LABELS)}, found {len(labels)} of them; fetch it again"
            )
        code = lt.code_fingerprint(_decoded, _train_files, _test_files)
        key = lt.fingerprint([[name, size] for name, size in zip(names, sizes, strict=True)], labels, code)
        train, test = (_CACHE / f"tinyimagenet-{part}-{key}.npz" for part in ("train", "test"))
        if not (train.is_file() and test.is_file()):
            ids = read("wnids.txt").decode().split()
            for path, wanted in ((train, _train_files(names, ids)), (test, _test_files(read, ids))):
                raw = _decoded(folder, wanted, read)
                buffer = io.BytesIO()
                np.savez(buffer, images=raw.images, labels=raw.labels)
                lt.write_atomically(path, buffer.getvalue())
    return _loaded(train), _loaded(test)


def check_archive(path: Path) -> bool:
    """Whether a file is a whole zip of the data set: every member's CRC is checked."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and f"{_ROOT}/wnids.txt" in file.namelist()
    except zipfile.BadZipFile:
        return False


def _loaded(path: Path) -> Raw:
    with np.load(path, allow_pickle=False) as file:
        return Raw(file["images"], file["labels"])


@contextmanager
def _opened(folder: Path) -> Generator[tuple[list[str], list[int], Callable[[str], bytes]]]:
    """Names below the root, a number for each that changes with its content (CRC, or size), and how to read one."""
    root = folder if (folder / "wnids.txt").is_file() else folder / _ROOT
    archive = folder if folder.suffix == ".zip" else folder / f"{_ROOT}.zip"
    if (root / "wnids.txt").is_file():
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        names = [path.relative_to(root).as_posix() for path in paths]
        yield names, [path.stat().st_size for path in paths], lambda name: (root / name).read_bytes()
    elif archive.is_file():
        try:
            with zipfile.ZipFile(archive) as file:
                members = sorted(
                    (
                        member
                        for member in file.infolist()
                        if not member.is_dir() and member.filename.startswith(f"{_ROOT}/")
                    ),
                    key=lambda member: member.filename,
                )
                names = [member.filename.removeprefix(f"{_ROOT}/") for member in members]
                yield names, [member.CRC for member in members], lambda name: file.read(f"{_ROOT}/{name}")
        except zipfile.BadZipFile as error:
            raise lt.DataError(f"{archive}: expected a whole zip archive, found it damaged: {error}") from error
    else:
        raise lt.DataError(f"{folder}: expected {_ROOT}/ with wnids.txt or {_ROOT}.zip, found neither; fetch it first")


def _train_files(names: Sequence[str], ids: Sequence[str]) -> list[tuple[str, int]]:
    place = {class_id: index for index, class_id in enumerate(ids)}
    files = []
    for name in names:
        parts = name.split("/")
        if parts[0] == "train" and name.endswith(".JPEG"):
            if parts[1] not in place:
                raise lt.DataError(f"{name}: expected a class of wnids.txt, found {parts[1]!r}")
            files.append((name, place[parts[1]]))
    return files


def _test_files(read: Callable[[str], bytes], ids: Sequence[str]) -> list[tuple[str, int]]:
    place = {class_id: index for index, class_id in enumerate(ids)}
    files = []
    for number, line in enumerate(read("val/val_annotations.txt").decode().splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) < 2 or fields[1] not in place:
            raise lt.DataError(f"val/val_annotations.txt: line {number}: expected a file and its class, found {line!r}")
        files.append((f"val/images/{fields[0]}", place[fields[1]]))
    return files


def _decoded(folder: Path, files: Sequence[tuple[str, int]], read: Callable[[str], bytes]) -> Raw:
    if not files:
        raise lt.DataError(f"{folder}: expected JPEG images in train/ and val/images/, found none")
    images = np.empty((len(files), 3, _SIDE, _SIDE), dtype=np.uint8)
    for index, (name, _) in enumerate(tqdm(files, desc="decoding", unit="image", leave=False, disable=None)):
        try:
            with Image.open(io.BytesIO(read(name))) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, KeyError, UnidentifiedImageError, zipfile.BadZipFile, zlib.error) as error:
            raise lt.DataError(f"{folder}: {name}: expected a JPEG image, found it unreadable: {error}") from error
        if pixels.shape != (_SIDE, _SIDE, 3):
            raise lt.DataError(f"{folder}: {name}: expected {_SIDE} x {_SIDE} pixels, found {pixels.shape[:2]}")
        images[index] = pixels.transpose(2, 0, 1)
    return Raw(images, np.array([label for _, label in files], dtype=np.int64))

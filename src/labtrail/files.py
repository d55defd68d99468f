"""Files that are whole or absent: written under a temporary name, synced, then renamed.

Why: docs/decisions/009-results-outside-a-run.md
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labtrail.errors import DataError

_CHUNK = 1 << 20


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that no reader ever sees half-written; makes the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def replaced_folder(target: Path) -> Generator[Path]:
    """A fresh folder that takes the place of ``target`` in one step when the block ends well.

    ``target`` is a link to a folder beside it: whoever opens it finds the old content or the new one, whole. If the
    block raises or the process dies, the old content stays; what was left behind goes with the next replacement.

    Raises:
        FileExistsError: ``target`` is a folder or file that was not made here.
    """
    if target.exists() and not target.is_symlink():
        raise FileExistsError(f"{target} exists and is not a link of ours")
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}-"
    fresh = target.with_name(f"{prefix}{uuid.uuid4().hex[:12]}")
    fresh.mkdir()
    yield fresh
    sync_tree(fresh)
    link = target.with_name(f"{prefix}link")
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    link.replace(target)
    sync_folder(target.parent)
    for other in target.parent.glob(f"{prefix}*"):
        if other != fresh:
            remove(other)


def link_or_copy(source: Path, target: Path) -> None:
    """Gives a file that nobody changes a second name; a copy where the disk or its owner does not allow that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Syncs every file below a folder, and the folder itself."""
    for path in folder.rglob("*"):
        sync_folder(path)
    sync_folder(folder)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """sha-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(name: str, content: Any) -> bytes:
    """The bytes of an artifact, by what it is and by the ending of its name.

    A str, bytes, a buffer or the path of a file as it is; a matplotlib Figure or a PIL image (``.png``, ``.jpg``, ...);
    a pandas DataFrame (``.csv``, ``.parquet``); a NumPy array (``.npy``); a tensor, or tensors in dicts and lists
    (``.pt``); dicts and lists of plain values (``.json``).

    Raises:
        DataError: the name leads out of the folder that it belongs to, or no way is known to store this content under
            this name.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"file {name!r}: it leads out of the run's folder; name it below that")
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, io.BytesIO):
        return content.getvalue()
    if isinstance(content, Path):
        return content.read_bytes()
    return _encode_object(Path(name), content)


def _encode_object(path: Path, content: Any) -> bytes:
    suffix, buffer = path.suffix.lower(), io.BytesIO()
    try:
        # What is in use has been imported by whoever made it: the packages are not loaded for a type test.
        match _library_of(content), suffix:
            case "matplotlib", _:
                content.savefig(buffer, format=suffix.removeprefix("."), dpi=150, bbox_inches="tight")
            case "PIL", _:
                content.save(buffer, format=_image_format(suffix))
            case "pandas", ".csv":
                content.to_csv(buffer, index=False)
            case "pandas", ".parquet":
                content.to_parquet(buffer, index=False)
            case "numpy", ".npy":
                import numpy as np

                np.save(buffer, content, allow_pickle=False)
            case (("torch" | "builtins"), ".pt"):
                import torch

                torch.save(content, buffer)
                # What cannot be read without unpickling objects is refused, not stored.
                torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
            case "builtins", ".json":
                return json.dumps(content, indent=1, allow_nan=False).encode()
            case _:
                raise TypeError(f"nothing is known that stores it as {suffix or 'a file without an ending'}")
    except (TypeError, ValueError, KeyError, AttributeError, OSError, pickle.PickleError) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(f"file {str(path)!r}: a {type(content).__name__} cannot be stored so: {first_line}") from error
    return buffer.getvalue()


def _library_of(content: Any) -> str:
    """The library that the type of something, or one that it is derived from, comes from."""
    libraries = {cls.__module__.partition(".")[0] for cls in type(content).__mro__[:-1]}
    return next((name for name in ("matplotlib", "PIL", "pandas", "numpy", "torch") if name in libraries), "builtins")


def _image_format(suffix: str) -> str:
    from PIL import Image

    return Image.registered_extensions()[suffix]

"""Brings data sets into the working folder: a resumable download with checks, or the import of local files.

A step for a machine with internet, such as a login node; runs read what it leaves.
"""

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from labtrail.errors import DataError
from labtrail.files import remove, sha256_of, sync_folder

_CHUNK = 1 << 18
_ATTEMPTS = 4
_TIMEOUT_S = 30
_SCHEMES = ("https://", "http://127.0.0.1:")


@dataclass(frozen=True)
class Asset:
    """One file of a data set.

    Attributes:
        source: its name where it comes from.
        target: its name in the data set's folder.
        url: where it can be downloaded; None: only from a local file.
        git_blob: its git blob id (sha-1 of header and content), if known.
    """

    source: str
    target: str
    url: str | None = None
    git_blob: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A data set that can be fetched by name.

    Attributes:
        name: as in ``-P dataset=NAME``; its files go to ``data/NAME``.
        assets: its files.
        licence: what a user must know before using it.
        check: called with each file once it is in its temporary place; raises DataError.
    """

    name: str
    assets: tuple[Asset, ...]
    licence: str
    check: Callable[[Path], None]


def fetch(dataset: DataSet, from_file: Path | None, root: Path = Path("data")) -> Path:
    """Brings a data set to ``root/NAME``; what is there already is kept, unless ``from_file`` holds something else.

    Args:
        dataset: what to bring.
        from_file: a folder with its files (or the one file it has); None: download.
        root: folder of all data sets.

    Raises:
        DataError: a file is missing, cut off, or not what it should be; none of it is left behind.
    """
    folder = root / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    for asset in dataset.assets:
        target = folder / asset.target
        if target.exists() and (from_file is None or sha256_of(target) == sha256_of(_local(from_file, asset))):
            continue
        # A download keeps its part for the next attempt; a part that fails its checks is worthless.
        part = folder / f"part-{asset.target}"
        if from_file is not None:
            _copy(_local(from_file, asset), part)
        elif asset.url is not None:
            download(asset.url, part)
        else:
            raise DataError(f"{dataset.name} cannot be downloaded; give its folder with -P from_file=FOLDER")
        try:
            _check_blob(part, asset)
            dataset.check(part)
        except DataError:
            remove(part)
            raise
        part.replace(target)
        sync_folder(folder)
    return folder


def _local(from_file: Path, asset: Asset) -> Path:
    path = from_file / asset.source if from_file.is_dir() else from_file
    if not path.is_file() or path.name != asset.source:
        raise DataError(f"{from_file}: expected {asset.source} here")
    return path


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    sync_folder(target)


def _check_blob(path: Path, asset: Asset) -> None:
    if asset.git_blob is None:
        return
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != asset.git_blob:
        raise DataError(f"{asset.source}: git blob id {digest.hexdigest()}, not the release's {asset.git_blob}")


def download(url: str, part: Path, attempts: int = _ATTEMPTS) -> None:
    """Downloads into ``part``, continuing what an earlier attempt has left there.

    Raises:
        DataError: the server cannot be reached or keeps breaking off; what came is kept.
    """
    if not url.startswith(_SCHEMES):
        raise DataError(f"{url}: only https addresses are fetched")
    problem = ""
    for attempt in range(attempts):
        try:
            _download_once(url, part)
            return
        except (OSError, http.client.HTTPException, _CutOffError) as error:
            problem = str(getattr(error, "reason", error))
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                break
            time.sleep(min(2**attempt, 8) * (attempt < attempts - 1))
    raise DataError(f"{url}: {problem}; without internet (compute nodes), give a copy with -P from_file=PATH")


class _CutOffError(Exception):
    """The connection ended before the announced length."""


def _download_once(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 checked
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 checked
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return
        raise
    with response:
        # A server that ignores the range sends everything again.
        have = have if response.status == 206 else 0
        expected = have + int(response.headers.get("Content-Length", 0))
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=expected or None, initial=have, unit="B", unit_scale=True, desc=part.name, disable=None) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    sync_folder(part)
    if part.stat().st_size < expected:
        raise _CutOffError(f"the connection broke off after {part.stat().st_size} of {expected} bytes")

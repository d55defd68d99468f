"""Where recordings come from: UCI's nested zip, the inner zip, or a folder of .dat files."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import labtrail as lt
from projects.pamap2.recording import subject_of

_WANTED = ".dat"
# The archive's other folder holds recordings of optional activities, by the same file names.
_PROTOCOL = "Protocol"


def open_recordings(source: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every recording of the protocol, by subject; one at a time in memory.

    Raises:
        DataError: the source is missing, damaged or unsafe, holds no recording, or two of one subject.
    """
    if source.is_dir():
        files = {str(path): path for path in source.rglob(f"*{_WANTED}")}
        for name in _ordered(files, source):
            yield name, files[name].read_bytes()
    elif source.is_file():
        yield from _from_zip(source)
    else:
        raise lt.DataError(f"{source}: expected the data set's zip or a folder of .dat files, found nothing there")


def _ordered(names: dict[str, Path] | list[str], source: Path) -> list[str]:
    protocol = [name for name in names if PurePosixPath(name).parent.name == _PROTOCOL]
    chosen = protocol or list(names)
    by_subject: dict[int, str] = {}
    for name in sorted(chosen):
        subject = subject_of(name)
        if subject in by_subject:
            raise lt.DataError(
                f"{source}: expected one file for subject {subject}, found {by_subject[subject]} and {name}"
            )
        by_subject[subject] = name
    if not by_subject:
        raise lt.DataError(f"{source}: expected files such as Protocol/subject101.dat, found no .dat file")
    return [by_subject[subject] for subject in sorted(by_subject)]


def _from_zip(source: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(source) as outer:
            _refuse_unsafe(outer, source)
            inner = [name for name in outer.namelist() if name.endswith(".zip")]
            if any(name.endswith(_WANTED) for name in outer.namelist()) or not inner:
                yield from _members(outer, source)
                return
            for name in inner:
                with zipfile.ZipFile(io.BytesIO(outer.read(name))) as nested:
                    _refuse_unsafe(nested, source)
                    yield from _members(nested, source)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
        raise lt.DataError(
            f"{source}: expected a whole zip archive, found it damaged: {error}; fetch it again"
        ) from error


def _members(archive: zipfile.ZipFile, source: Path) -> Iterator[tuple[str, bytes]]:
    for name in _ordered([name for name in archive.namelist() if name.endswith(_WANTED)], source):
        # Reading a member checks its CRC.
        yield f"{source}/{name}", archive.read(name)


def _refuse_unsafe(archive: zipfile.ZipFile, source: Path) -> None:
    for name in archive.namelist():
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise lt.DataError(f"{source}: expected names inside the archive, found {name!r}, which leads out of it")

"""The source of a run: its tree in git where there is one, and a copy of its code that needs neither git nor this lab.

Copies lie below ``.labtrail/sources``, each content once; runs on this disk hold links to it. A process that runs from
such a copy (``pins``) passes on the source that it was made of, and does not look at the folder that it stands in.

Why: docs/decisions/050-a-run-keeps-its-source.md
"""

import gzip
import hashlib
import io
import json
import logging
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labtrail.errors import DataError
from labtrail.files import remove, write_atomically
from labtrail.running.provenance.code import CodeDigest
from labtrail.running.provenance.secrets import why_secret
from labtrail.running.provenance.sources import ImportPaths
from labtrail.running.provenance.tree import LARGEST_FILE, LARGEST_SUM, GitError, Tree, git, patch_of, top_of, tree_of
from labtrail.store import contract

_log = logging.getLogger("labtrail")

# Set to "off" where code may not be kept; the digests stay.
SWITCH_VARIABLE = "LABTRAIL_SOURCE"
# The copy that a process runs from.
PIN_VARIABLE = "LABTRAIL_PIN"
COPY, PATCH, FACTS = "code.tar.gz", "changes.patch", "source.json"
_NOT_CODE = {"__pycache__", "node_modules", "mlruns", "site-packages"}
_COMPILED = (".pyc", ".so", ".pyd")
# What lies among code for people, and decides no number.
_FOR_PEOPLE = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".pdf", ".mp4", ".md", ".rst")


@dataclass(frozen=True)
class Source:
    """Where the code of a run is kept.

    Attributes:
        digest: of the copy and of the patch, 16 hexadecimal digits; empty where none was made.
        tree: of the repository; None without git.
        places: packages and modules that the copy holds, each with the folder of the repository in which it lies
            (``src``, ``.``); empty for one that lies elsewhere.
        left_out: files that are not kept as they are, and why.
        missing: those of them that the code may need.
        problem: what no copy or tree could be made for.
    """

    digest: str
    tree: Tree | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: Sequence[str] = ()
    problem: str = ""

    @property
    def tags(self) -> dict[str, str]:
        """What the run's tags say of it."""
        tags = {contract.SOURCE_KEPT: self._words()}
        if self.tree is not None:
            tags |= {contract.GIT_DIRTY: str(self.tree.dirty).lower(), contract.TREE: self.tree.tree}
            tags |= {contract.GIT_COMMIT: self.tree.commit} if self.tree.commit else {}
        return tags

    def _words(self) -> str:
        if not self.digest:
            return self.problem or "off"
        missing = ", ".join(f"{path} ({self.left_out[path]})" for path in self.missing)
        words = [f"incomplete: {missing}"] if missing else []
        return "; ".join([*words, self.problem] if self.problem else words) or "complete"

    def to_json(self) -> dict[str, Any]:
        """As it is kept beside the copy and with a run."""
        return {
            "digest": self.digest,
            "tree": self.tree.to_json() if self.tree else None,
            "places": dict(self.places),
            "left_out": dict(self.left_out),
            "missing": list(self.missing),
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Source":
        """As ``to_json`` gave it; further keys are passed over."""
        tree = Tree.from_json(stored["tree"]) if stored["tree"] else None
        facts = {name: stored[name] for name in ("places", "left_out", "problem")}
        return cls(stored["digest"], tree, missing=tuple(stored["missing"]), **facts)


def take(code: CodeDigest, lab: Path, state: Path) -> Source:
    """Keeps the code of this process, and tells where.

    Args:
        code: that the task reaches.
        lab: the folder whose repository is meant.
        state: folder below which copies lie.
    """
    if os.environ.get(SWITCH_VARIABLE, "").lower() in ("off", "0", "false", "no"):
        return Source("", problem="off")
    if pin := os.environ.get(PIN_VARIABLE):
        return kept(state, Path(pin).name)
    tree, patch, problem = None, b"", ""
    top = top_of(lab)
    try:
        tree = tree_of(top) if top else None
        patch = patch_of(top, tree) if top and tree else b""
    except GitError as error:
        problem = f"not in git: {error}"
        _log.warning("the tree of this run is not kept: %s", error)
    base = (top or lab).resolve()
    places = _places_of(sorted({"labtrail", *code.top_levels}))
    files, missing = _files_of(places, base, tree)
    if tree is not None:
        # Data and notes that are not tracked are left out of a tree, and lack nobody.
        missing |= {path: why for path, why in tree.left_out.items() if path in tree.changed or _is_code(path)}
    left_out = {**(tree.left_out if tree else {}), **missing}
    listing = json.dumps([[name, hashlib.sha256(content).hexdigest()] for name, content in files.items()])
    digest = hashlib.sha256(listing.encode() + patch).hexdigest()[:16]
    source = Source(digest, tree, _relative(places, base), left_out, tuple(missing), problem)
    folder = folder_of(state, digest)
    if not folder.is_dir():
        _write(folder, {COPY: packed(files), **({PATCH: patch} if patch else {})}, source)
        for path, why in left_out.items():
            _log.info("not kept with the run: %s (%s)", path, why)
    return source


def folder_of(state: Path, digest: str) -> Path:
    """Where a copy lies."""
    return state / "sources" / digest


def kept(state: Path, digest: str) -> Source:
    """The source of a copy that was made before.

    Raises:
        DataError: it is gone, or damaged.
    """
    path = folder_of(state, digest) / FACTS
    try:
        return Source.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: the code that this process runs from cannot be told: {error}") from error


def _write(folder: Path, contents: Mapping[str, bytes], source: Source) -> None:
    """A folder that is there whole or not at all; of two processes one writes it."""
    arriving = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
    try:
        for name, content in contents.items():
            write_atomically(arriving / name, content)
        write_atomically(arriving / FACTS, json.dumps(source.to_json(), indent=1).encode())
        arriving.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        remove(arriving)


def _places_of(top_levels: Sequence[str]) -> dict[str, Path]:
    """The folder of each package, and the file of each module, that this process imports."""
    paths = ImportPaths(top_levels)
    places = {top: paths.place_of(top) for top in top_levels}
    return {top: place.resolve() for top, place in places.items() if place is not None}


def _relative(places: Mapping[str, Path], base: Path) -> dict[str, str]:
    roots = {top: place.parent for top, place in places.items()}
    return {top: root.relative_to(base).as_posix() if root.is_relative_to(base) else "" for top, root in roots.items()}


def _files_of(places: Mapping[str, Path], base: Path, tree: Tree | None) -> tuple[dict[str, bytes], dict[str, str]]:
    """Name below an import path -> content of the files of some packages, and those that are left out."""
    files: dict[str, bytes] = {}
    left_out, total = {}, 0
    for top, place in places.items():
        for path in sorted(_below(place)):
            name = path.name if path == place else f"{top}/{path.relative_to(place).as_posix()}"
            shown = path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)
            content, why = _read(path)
            if not why and total + len(content) > LARGEST_SUM:
                why = f"all together over {LARGEST_SUM >> 20} MiB"
            if not why and tree is not None and shown in tree.left_out:
                why = tree.left_out[shown]
            # What git has had before is somewhere else already.
            if not why and (tree is None or not path.is_relative_to(base)):
                why = why_secret(name, content)
            if why:
                left_out[shown] = why
            else:
                files[name], total = content, total + len(content)
    return files, left_out


def _read(path: Path) -> tuple[bytes, str]:
    size = path.stat().st_size
    if size > LARGEST_FILE:
        return b"", f"{size / (1 << 20):.1f} MiB, over {LARGEST_FILE >> 20}"
    return path.read_bytes(), ""


def _below(place: Path) -> Iterator[Path]:
    """The files of a package, without those that git ignores; or the file of a module."""
    if place.is_file():
        return iter([place])
    try:
        words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
        names = git(place, *words).decode(errors="surrogateescape").split("\0")
    except GitError:
        names = []
    # None at all: git ignores the folder as a whole, an environment below a repository for instance.
    listed = [path for name in names if name for path in _behind(place / name)] or list(_walked(place))
    kept = (path for path in dict.fromkeys(listed) if not path.name.lower().endswith((*_COMPILED, *_FOR_PEOPLE)))
    return (path for path in kept if path.is_file())


def _behind(path: Path) -> Iterator[Path]:
    """A file; or the files behind a link to a folder, of which git knows only the link."""
    return _walked(path) if path.is_symlink() and path.is_dir() else iter([path])


def _walked(place: Path) -> Iterator[Path]:
    """The files below a folder, also those behind links, each folder once."""
    seen = set()
    for folder, below, names in os.walk(place, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if name not in _NOT_CODE and not name.startswith(".")]
        yield from (Path(folder, name) for name in names)


def _is_code(path: str) -> bool:
    return path.endswith((".py", ".pyi", ".pyx", ".j2", ".js", ".toml", ".cfg"))


def packed(files: Mapping[str, bytes]) -> bytes:
    """A compressed archive of files, the same bytes for the same contents."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack(archive: Path, folder: Path) -> None:
    """Lays the files of an archive below a new folder; it is there whole or not at all.

    Raises:
        DataError: the archive is damaged, or a member would lie outside.
    """
    if folder.is_dir():
        return
    arriving = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
    arriving.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r:gz") as members:
            members.extractall(arriving, filter="data")
        arriving.rename(folder)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{archive}: not an archive that can be unpacked: {error}") from error
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        remove(arriving)

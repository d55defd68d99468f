"""The working folder as an object of git: what is tracked, changed and new, kept without touching index or branch.

A tree that differs from HEAD becomes a commit below ``refs/labtrail/``: ``git push`` leaves these refs alone, and
``git gc`` keeps what they name.

Why: docs/decisions/050-a-run-keeps-its-source.md
"""

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from labtrail.files import remove
from labtrail.running.provenance.secrets import why_secret

LARGEST_FILE, LARGEST_SUM = 1 << 20, 20 << 20
_REFS = "refs/labtrail"
_TIMEOUT_S = 20
# Equal trees on the same commit get equal ids.
_WHO = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "labtrail"), ("EMAIL", "labtrail@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
}


class GitError(Exception):
    """git is not there, does not answer, or refuses; says what it said."""


@dataclass(frozen=True)
class Tree:
    """What a working folder holds.

    Attributes:
        commit: that it stands on; empty before the first one.
        tree: id of the tree with all changes.
        kept: commit that holds that tree: ``commit`` itself where nothing has changed.
        changed: tracked files that differ from the commit.
        untracked: new files, but for ignored ones.
        left_out: files of these that are not in the tree as they are, and why.
    """

    commit: str
    tree: str
    kept: str
    changed: Sequence[str] = ()
    untracked: Sequence[str] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def dirty(self) -> bool:
        """Whether anything differs from the commit, new files among it."""
        return bool(self.changed or self.untracked)

    def to_json(self) -> dict[str, Any]:
        """As it is kept with a run."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Tree":
        """As ``to_json`` gave it."""
        changed, untracked = tuple(stored["changed"]), tuple(stored["untracked"])
        return cls(stored["commit"], stored["tree"], stored["kept"], changed, untracked, stored["left_out"])


def git(folder: Path, *words: str, variables: Mapping[str, str] | None = None, text: bytes = b"") -> bytes:
    """What a git command prints.

    Raises:
        GitError: it cannot be run or fails.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            input=text,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, **(variables or {})},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise GitError(f"git {words[0]}: {error}") from error
    if done.returncode:
        raise GitError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def top_of(folder: Path) -> Path | None:
    """The top folder of the repository that a folder belongs to; None outside one, or without git."""
    try:
        return Path(git(folder, "rev-parse", "--show-toplevel").decode().rstrip("\n"))
    except GitError:
        return None


def tree_of(top: Path, keep: bool = True) -> Tree:
    """What a working folder holds, as far as it may be kept.

    Args:
        top: folder of the repository.
        keep: whether a ref keeps it.

    Raises:
        GitError: git fails on this repository.
    """
    changed, untracked = _differing(top)
    head = _head(top)
    if not changed and not untracked and head:
        kept = Tree(head, git(top, "rev-parse", f"{head}^{{tree}}").decode().strip(), head)
    else:
        kept = _with_changes(top, head, changed, untracked)
    if keep:
        git(top, "update-ref", f"{_REFS}/{kept.kept[:16]}", kept.kept)
    return kept


def _head(top: Path) -> str:
    try:
        return git(top, "rev-parse", "--verify", "--quiet", "HEAD").decode().strip()
    except GitError:
        return ""


def _differing(top: Path) -> tuple[list[str], list[str]]:
    """Tracked files that differ from HEAD, and untracked ones that are not ignored."""
    words = ["--porcelain=v1", "-z", "--no-renames", "--untracked-files=all"]
    # Looking must not take the lock that somebody's own git command may want.
    lines = git(top, "--no-optional-locks", "status", *words).decode(errors="surrogateescape").split("\0")
    entries = [(line[:2], line[3:]) for line in lines if line]
    return [path for state, path in entries if state != "??"], [path for state, path in entries if state == "??"]


def _with_changes(top: Path, head: str, changed: Sequence[str], untracked: Sequence[str]) -> Tree:
    left_out = dict(_left_out(top, head, changed, untracked))
    with tempfile.TemporaryDirectory(prefix="labtrail-") as folder:
        copied = Path(folder) / "index"
        index = Path(git(top, "rev-parse", "--git-path", "index").decode().strip())
        if (top / index).is_file():
            # With the repository's own index git need not read what has not changed.
            # Its time of change, too: by it git knows which files it has to read again.
            shutil.copy2(top / index, copied)
        variables = {"GIT_INDEX_FILE": str(copied)}
        taken = [path for path in (*changed, *untracked) if path not in left_out]
        paths = b"".join(os.fsencode(path) + b"\0" for path in taken)
        git(top, "update-index", "--add", "--remove", "-z", "--stdin", variables=variables, text=paths)
        for path in set(left_out).intersection(changed):
            git(top, "reset", "--quiet", "HEAD", "--", path, variables=variables)
        tree = git(top, "write-tree", variables=variables).decode().strip()
    parent = ("-p", head) if head else ()
    same = head and git(top, "rev-parse", f"{head}^{{tree}}").decode().strip() == tree
    message = ("-m", "working folder of a run")
    kept = head if same else git(top, "commit-tree", tree, *parent, *message, variables=_WHO).decode().strip()
    return Tree(head, tree, kept, tuple(changed), tuple(untracked), left_out)


def _left_out(top: Path, head: str, changed: Sequence[str], untracked: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Files that are not kept as they are, and why: large new ones, and what may hold a secret."""
    total = 0
    for path in untracked:
        file = top / path
        if path.endswith("/"):
            yield path, "a repository of its own"
        if file.is_symlink() or not file.is_file():
            continue
        size = file.stat().st_size
        if size > LARGEST_FILE:
            yield path, f"{size / (1 << 20):.1f} MiB, over {LARGEST_FILE >> 20}"
        elif total + size > LARGEST_SUM:
            yield path, f"new files together over {LARGEST_SUM >> 20} MiB"
        elif why := why_secret(file.name, file.read_bytes()):
            yield path, why
        else:
            total += size
    there = [path for path in changed if (top / path).is_file()]
    # One look at all of them; which it was is asked only if there is something.
    clean = bool(head) and not why_secret("", _added(top, there)) if there else True
    for path in there:
        added = b"" if clean else _added(top, [path]) if head else (top / path).read_bytes()
        if why := why_secret(path, added):
            yield path, why


def _added(top: Path, paths: Sequence[str]) -> bytes:
    """The lines that tracked files have more than in HEAD; what was there before is in the repository already."""
    lines = git(top, "diff", "--no-ext-diff", "--no-textconv", "-U0", "HEAD", "--", *paths).splitlines()
    return b"\n".join(line[1:] for line in lines if line.startswith(b"+") and not line.startswith(b"+++"))


def patch_of(folder: Path, tree: Tree) -> bytes:
    """The kept tree's changes against its commit, as ``git apply`` takes them; empty where there are none."""
    if not tree.commit or tree.kept == tree.commit:
        return b""
    words = ("diff", "--no-ext-diff", "--no-textconv", "--binary", "--full-index", "--no-renames")
    return git(folder, *words, tree.commit, tree.kept)


def lay_out(top: Path, tree: Tree, patch: bytes, folder: Path) -> None:
    """Writes the files of a kept tree into a new folder, from its own commit or from the one below it and a patch.

    Args:
        top: of a repository that may have one of the two.
        tree: what is wanted.
        patch: its changes, if any.
        folder: which is there whole or not at all.

    Raises:
        GitError: this repository has neither.
    """
    arriving = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
    arriving.mkdir(parents=True)
    try:
        for commit in dict.fromkeys((tree.kept, tree.commit)):
            if not commit or not _has(top, commit):
                continue
            with tarfile.open(fileobj=io.BytesIO(git(top, "archive", commit))) as archive:
                archive.extractall(arriving, filter=_inside)  # noqa: S202 checked by the filter
            if commit != tree.kept:
                # Otherwise git would take the folder for part of a repository above it.
                outside = {"GIT_CEILING_DIRECTORIES": str(arriving.parent)}
                git(arriving, "apply", "--binary", "-", variables=outside, text=patch)
            arriving.rename(folder)
            return
    finally:
        remove(arriving)
    raise GitError(f"commit {tree.kept[:9]} is not in this repository")


def _inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Leaves out links that lead out of the folder: they are nobody's code."""
    try:
        return tarfile.data_filter(member, folder)
    except tarfile.FilterError:
        return None


def _has(top: Path, commit: str) -> bool:
    try:
        git(top, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True

"""What a run keeps of its code: all that git may have and a copy that needs no git, and nothing that is secret."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from labtrail.errors import DataError
from labtrail.running.provenance import pins, source
from labtrail.running.provenance.code import CodeDigest
from labtrail.running.provenance.secrets import why_secret
from labtrail.running.provenance.tree import Tree, lay_out, patch_of, tree_of

WHO = ("-c", "user.name=A", "-c", "user.email=a@localhost")
PICTURE = bytes(range(256)) * 8


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *WHO, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / ".gitignore").write_text("data/\n.labtrail/\n")
    (folder / "mine").mkdir()
    (folder / "mine/__init__.py").write_text("")
    (folder / "mine/train.py").write_text("RATE = 1\n")
    (folder / "mine/picture.bin").write_bytes(PICTURE)
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def state(folder: Path) -> tuple[str, ...]:
    return tuple(git(folder, *words.split()) for words in ("status --porcelain", "branch --list", "stash list", "diff"))


def content(folder: Path, tree: Tree, path: str) -> str:
    return git(folder, "show", f"{tree.kept}:{path}")


def test_a_clean_tree_is_its_commit(repository: Path) -> None:
    tree = tree_of(repository)
    assert (tree.kept, tree.dirty, tree.left_out) == (tree.commit, False, {})
    assert tree.tree == git(repository, "rev-parse", "HEAD^{tree}")
    assert patch_of(repository, tree) == b""


def test_changes_staged_or_not_and_new_files_are_kept_without_a_trace(repository: Path) -> None:
    (repository / "mine/train.py").write_text("RATE = 2\n")
    git(repository, "add", "mine/train.py")
    (repository / "mine/train.py").write_text("RATE = 3\n")
    (repository / "mine/new file.py").write_text("NEW = 1\n")
    (repository / "mine/picture.bin").write_bytes(PICTURE[::-1])
    (repository / "mine/__init__.py").unlink()
    (repository / "data").mkdir()
    (repository / "data/large").write_text("ignored")
    before = state(repository)

    tree = tree_of(repository)
    assert state(repository) == before
    assert tree.dirty
    assert set(tree.changed) == {"mine/train.py", "mine/picture.bin", "mine/__init__.py"}
    assert list(tree.untracked) == ["mine/new file.py"]
    assert content(repository, tree, "mine/train.py") == "RATE = 3"
    assert content(repository, tree, "mine/new file.py") == "NEW = 1"
    names = git(repository, "ls-tree", "-r", "--name-only", tree.kept).splitlines()
    assert "mine/__init__.py" not in names
    assert not any(name.startswith("data") for name in names)
    # The same tree is the same object.
    count = git(repository, "count-objects")
    assert tree_of(repository) == tree
    assert git(repository, "count-objects") == count


def test_a_tree_outlives_its_branch_and_gc(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "-b", "side")
    (repository / "mine/train.py").write_text("RATE = 4\n")
    git(repository, "commit", "--quiet", "-am", "side")
    (repository / "mine/train.py").write_text("RATE = 5\n")
    tree = tree_of(repository)
    git(repository, "checkout", "--quiet", "--force", "main")
    git(repository, "branch", "--quiet", "-D", "side")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "--quiet", "--prune=now")
    assert content(repository, tree, "mine/train.py") == "RATE = 5"


def test_a_tree_is_laid_out_from_its_commit_or_from_the_one_below_and_a_patch(repository: Path, tmp_path: Path) -> None:
    (repository / "mine/train.py").write_text("RATE = 6\n")
    (repository / "mine/picture.bin").write_bytes(PICTURE[::-1])
    (repository / "mine/new.py").write_text("NEW = 2\n")
    tree = tree_of(repository)
    patch = patch_of(repository, tree)
    other = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(other))
    for number, top in enumerate((repository, other)):
        # Below a repository, as a lab's own folder is.
        folder = repository / ".labtrail" / f"laid-{number}"
        lay_out(top, tree, patch, folder)
        assert (folder / "mine/train.py").read_text() == "RATE = 6\n"
        assert (folder / "mine/new.py").read_text() == "NEW = 2\n"
        assert (folder / "mine/picture.bin").read_bytes() == PICTURE[::-1]


def test_a_repository_before_its_first_commit_and_a_worktree(repository: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    git(fresh, "init", "--quiet")
    (fresh / "a.py").write_text("A = 1\n")
    tree = tree_of(fresh)
    assert (tree.commit, tree.dirty) == ("", True)
    assert content(fresh, tree, "a.py") == "A = 1"

    beside = tmp_path / "beside"
    git(repository, "worktree", "add", "--quiet", str(beside))
    (beside / "mine/train.py").write_text("RATE = 7\n")
    assert content(repository, tree_of(beside), "mine/train.py") == "RATE = 7"


SECRETS = {
    ".env": "A=1",
    "id_rsa": "what nobody may see",
    "notes.txt": "-----BEGIN RSA PRIVATE KEY-----",
    "settings.py": 'password = "correct-horse"',
    "cloud.yaml": "key: AKIAABCDEFGHIJKLMNOP",
    "store.py": 'URI = "postgresql://me:hunter22@host/db"',
}


@pytest.mark.parametrize(("name", "text"), SECRETS.items())
def test_what_looks_like_a_secret_is_left_out_and_told(repository: Path, name: str, text: str) -> None:
    (repository / "mine" / name).write_text(text)
    tree = tree_of(repository)
    assert list(tree.left_out) == [f"mine/{name}"]
    assert text not in git(repository, "log", "--all", "-p", "--format=%H")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.py", "def tokens(text): return text.split()"),
        ("secrets.py", "import secrets"),
        ("train.py", 'url = "https://host:8080/path"'),
        ("train.py", 'password = os.environ["PASSWORD"]'),
        ("train.py", 'uri = f"postgresql://{user}:{password}@host"'),
    ],
)
def test_code_that_speaks_of_secrets_is_kept(name: str, text: str) -> None:
    assert why_secret(name, text.encode()) == ""


def test_a_secret_in_a_tracked_file_leaves_it_as_it_was(repository: Path) -> None:
    (repository / "mine/train.py").write_text('RATE = 1\napi_key = "abcdefgh"\n')
    tree = tree_of(repository)
    assert "mine/train.py" in tree.left_out
    assert content(repository, tree, "mine/train.py") == "RATE = 1"
    assert tree.dirty


def test_large_new_files_are_left_out(repository: Path) -> None:
    (repository / "large.bin").write_bytes(b"0" * (1 << 21))
    for number in range(22):
        (repository / f"part-{number:02}.bin").write_bytes(b"0" * (1 << 20))
    left = tree_of(repository).left_out
    assert left["large.bin"] == "2.0 MiB, over 1"
    assert {name for name in left if "part" in name} == {"part-20.bin", "part-21.bin"}


CODE = CodeDigest("d", {"mine.train": "1"}, top_levels=("mine",))


@pytest.fixture
def importable(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(repository))
    monkeypatch.delenv(source.SWITCH_VARIABLE, raising=False)
    return repository


def names_in(archive: Path) -> set[str]:
    with tarfile.open(archive) as members:
        return set(members.getnames())


def test_the_copy_has_the_packages_of_the_task_and_labtrail(importable: Path) -> None:
    (importable / "mine/new.py").write_text("NEW = 1\n")
    (importable / "mine/.env").write_text("TOKEN=1")
    (importable / "other.py").write_text("")
    (importable / "mine/cover.png").write_bytes(b"")
    lab = importable / ".labtrail"
    taken = source.take(CODE, importable, lab)
    names = names_in(source.folder_of(lab, taken.digest) / source.COPY)
    assert {"mine/new.py", "mine/train.py", "mine/picture.bin", "labtrail/record.py"} <= names
    assert not {"mine/.env", "mine/cover.png", "other.py"} & names
    assert taken.places["mine"] == "."
    assert taken.tags["labtrail.git_dirty"] == "true"
    assert "mine/.env" in taken.tags["labtrail.source"]
    assert source.kept(lab, taken.digest) == taken
    # Nothing new is nothing to write.
    folder = source.folder_of(lab, taken.digest)
    before = folder.stat().st_mtime_ns
    assert source.take(CODE, importable, lab) == taken
    assert folder.stat().st_mtime_ns == before


@pytest.mark.parametrize("in_git", [True, False])
def test_code_behind_links_is_copied(importable: Path, tmp_path: Path, in_git: bool) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "inner").mkdir(parents=True)
    (elsewhere / "inner/part.py").write_text("PART = 1\n")
    (elsewhere / "round").symlink_to(elsewhere)
    (importable / "mine/linked").symlink_to(elsewhere)
    if not in_git:
        (importable / ".git").rename(tmp_path / "git")
    lab = importable / ".labtrail"
    taken = source.take(CODE, importable, lab)
    assert "mine/linked/inner/part.py" in names_in(source.folder_of(lab, taken.digest) / source.COPY)


def test_a_folder_without_git_and_a_module_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "lonely.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    code = CodeDigest("d", {"lonely.A": "1"}, top_levels=("lonely",))
    taken = source.take(code, tmp_path, tmp_path / ".labtrail")
    assert (taken.tree, taken.tags) == (None, {"labtrail.source": "complete"})
    names = names_in(source.folder_of(tmp_path / ".labtrail", taken.digest) / source.COPY)
    assert {name for name in names if not name.startswith("labtrail/")} == {"lonely.py"}


def test_nothing_is_kept_where_code_may_not_be(importable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(source.SWITCH_VARIABLE, "off")
    taken = source.take(CODE, importable, importable / ".labtrail")
    assert (taken.digest, taken.tags) == ("", {"labtrail.source": "off"})
    assert not (importable / ".labtrail").exists()


def test_a_process_of_a_copy_passes_its_source_on(importable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = importable / ".labtrail"
    taken = source.take(CODE, importable, lab)
    folder = pins.unpacked(lab, taken.digest)
    assert (folder / "mine/train.py").read_text() == "RATE = 1\n"
    variables = pins.variables(folder)
    assert variables["PYTHONPATH"].split(":")[0] == str(folder)
    monkeypatch.setenv(source.PIN_VARIABLE, variables[source.PIN_VARIABLE])
    (importable / "mine/train.py").write_text("RATE = 9\n")
    assert source.take(CODE, importable, lab) == taken
    # Once from a copy, always that copy first.
    monkeypatch.setenv("PYTHONPATH", variables["PYTHONPATH"])
    assert pins.variables(folder) == variables


def test_a_damaged_copy_is_refused_and_leaves_nothing(importable: Path) -> None:
    lab = importable / ".labtrail"
    taken = source.take(CODE, importable, lab)
    archive = source.folder_of(lab, taken.digest) / source.COPY
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not an archive that can be unpacked"):
        pins.unpacked(lab, taken.digest)
    assert list((lab / "code").iterdir()) == []
    with pytest.raises(DataError, match="is gone"):
        pins.unpacked(lab, "0" * 16)
    (source.folder_of(lab, taken.digest) / source.FACTS).write_text(json.dumps({}))
    with pytest.raises(DataError, match="cannot be told"):
        source.kept(lab, taken.digest)

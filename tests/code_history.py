"""``python -m tests.code_history``: how often the digest of each task's code has changed in this repository.

Compares with coarser grains: a commit, any Python file of src and projects, and the files of the task's project and
of labtrail. A task counts from the first commit that has its function. Which modules of labtrail can decide a number is
said by today's list, before the wings by the last part of a module's name.
"""

import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from labtrail.config import fingerprint
from labtrail.running.provenance.cache import Readings
from labtrail.running.provenance.code import ASKS, name_of
from labtrail.running.provenance.reach import Code, Name
from labtrail.running.provenance.sources import Folder
from labtrail.running.registry import known_tasks

ROOT = Path(__file__).resolve().parents[1]
GRAINS = ("commits", "all files", "project and labtrail", "code that is reached")
_LAST = {module.rstrip(".").rpartition(".")[2] for module in ASKS}


def counts(module: str) -> bool:
    """Whether a module can decide a number, wherever it stood."""
    parts = module.split(".")
    return parts[0] != "labtrail" or bool(_LAST.intersection(parts[1:]))


def git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=True).stdout


def files_of(commit: str) -> dict[str, str]:
    """Path -> blob of the Python files of a commit."""
    lines = git("ls-tree", "-r", commit, "src", "projects").decode().splitlines()
    entries = (line.split(None, 3) for line in lines)
    return {path: blob for _mode, _kind, blob, path in entries if path.endswith(".py")}


def main() -> None:
    commits = git("rev-list", "--reverse", "HEAD").decode().split()
    readings, changes, last = Readings(), defaultdict(Counter), {}
    with tempfile.TemporaryDirectory() as name:
        tree, there = Path(name), {}
        for commit in commits:
            files = files_of(commit)
            for path in there.keys() - files.keys():
                (tree / path).unlink()
            for path in (path for path, blob in files.items() if there.get(path) != blob):
                (tree / path).parent.mkdir(parents=True, exist_ok=True)
                (tree / path).write_bytes(git("cat-file", "blob", files[path]))
            there = files
            code = Code(Folder([tree / "src", tree]), readings, counts)
            for task in known_tasks().values():
                parts = (task.function, task.config, task.sources, task.resolve)
                roots = [root for root in map(name_of, parts) if _has(code, root)]
                function = name_of(task.function)
                if function not in roots:
                    continue
                project = f"projects/{function.module.split('.')[1]}/"
                near = {path: blob for path, blob in files.items() if path.startswith(("src/", project))}
                reached = fingerprint(dict(sorted(code.reach(roots).definitions.items())))
                now = (commit, fingerprint(files), fingerprint(near), reached)
                if task.name in last:
                    before = last[task.name]
                    grains = zip(GRAINS, before, now, strict=True)
                    changes[task.name].update({grain: old != new for grain, old, new in grains})
                last[task.name] = now
    print(f"| task | {' | '.join(GRAINS)} |\n|---|{'---|' * len(GRAINS)}")
    for task in (*sorted(changes), "sum"):
        numbers = changes[task] if task != "sum" else sum(changes.values(), Counter())
        print(f"| {task} | {' | '.join(str(numbers[grain]) for grain in GRAINS)} |")


def _has(code: Code, root: Name) -> bool:
    module = code.module(root.module)
    return module is not None and root.name in module.definitions


if __name__ == "__main__":
    main()

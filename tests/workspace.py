"""A working folder of its own for tests that run whole commands, as a user's checkout would be."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from labtrail.query.query import Query

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = Path(os.environ.get("LABTRAIL_FIXTURES", REPOSITORY / "tests/golden/fixtures"))
REAL_DATA = Path(os.environ.get("LABTRAIL_REAL_DATA", REPOSITORY / "../shared/data"))

TINY = """
seed: 0
data: {synthetic: {classes: 4, train: 24, validation: 8, test: 8, frames: 10}}
model: {layers: 1, feed_forward: 32}
train: {epochs: 4, optimizer: adamw, learning_rate: 1e-3, batch_size: 4, milestones: [2, 4]}
"""


class Workspace:
    """A copy of what a checkout holds, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        for name in ("projects", "configs"):
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("MLproject", "python_env.yaml"):
            shutil.copy(REPOSITORY / name, folder / name)
        (folder / "src").symlink_to(REPOSITORY / "src")
        (folder / "tests").mkdir()
        (folder / "tests/toy").symlink_to(REPOSITORY / "tests/toy")
        self.write("tiny.yaml", TINY)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST", "COV"))}
        bin_folder = str(Path(sys.executable).parent)
        return {
            **kept,
            "PATH": f"{bin_folder}{os.pathsep}{kept['PATH']}",
            "PYTHONPATH": "src:.",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUNBUFFERED": "1",
            **self.variables,
        }

    def command(self, *words: str) -> list[str]:
        """``python -m`` or another program of the environment."""
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]

    def run(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def spoter(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-m", "projects.spoter", "--config", "tiny.yaml", *options)

    def mlflow_run(self, entry_point: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            "mlflow", "run", ".", "-e", entry_point, "--env-manager", "local", "--experiment-name", "spoter",
            *options,
        )  # fmt: skip

    @contextmanager
    def started(self, *words: str, stdout: str = "stdout.log") -> Generator[subprocess.Popen[str]]:
        """A command in the background; everything it started is gone afterwards."""
        with (
            (self.folder / stdout).open("w") as output,
            subprocess.Popen(
                self.command(*words), cwd=self.folder, env=self.environment, text=True,
                stdout=output, stderr=subprocess.PIPE,
            ) as process,
        ):  # fmt: skip
            try:
                yield process
            finally:
                kill_tree(process.pid)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def query(self, task: str | None = "spoter", statuses: tuple[str, ...] = ("FINISHED",)) -> Query:
        return Query(task, client=self.client()).ended(*statuses)

    def artifacts(self, run_id: str) -> Path:
        return next((self.folder / "mlruns").glob(f"*/{run_id}/artifacts"))


def wait_for_line(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Reads the process's messages until one contains ``wanted``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} never came:\n{''.join(lines)}")


def wait_until(condition: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.1)


def kill_tree(pid: int) -> None:
    """kill -9 of a process and all below it."""
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    for process in [*root.children(recursive=True), root]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def assert_same_weights(one: Path, other: Path) -> None:
    """Last, best and milestone weights, and the optimizer, are equal bit for bit."""
    first, second = (load_file(folder / "checkpoints/last/model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    portables = sorted(path.name for path in (one / "checkpoints").glob("*.pt"))
    assert portables == sorted(path.name for path in (other / "checkpoints").glob("*.pt"))
    for name in portables:
        a, b = (torch.load(folder / "checkpoints" / name, weights_only=True) for folder in (one, other))
        assert a["epoch"] == b["epoch"]
        _assert_equal(a["model_state_dict"], b["model_state_dict"])
        _assert_equal(a["optimizer_state_dict"], b["optimizer_state_dict"])


def _assert_equal(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict)
        assert one.keys() == other.keys()
        for key in one:
            _assert_equal(one[key], other[key])
    else:
        assert one == other

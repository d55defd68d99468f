"""A working folder of its own for tests that run whole commands, as a user's checkout would be."""

import atexit
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import psutil
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file

from labtrail.jobs.preloaded import Forked, Preloaded
from labtrail.query.query import Query
from labtrail.store.connection import create_store

REPOSITORY = Path(__file__).resolve().parents[1]
FIXTURES = Path(os.environ.get("LABTRAIL_FIXTURES", REPOSITORY / "tests/golden/fixtures"))
REAL_DATA = Path(os.environ.get("LABTRAIL_REAL_DATA", REPOSITORY / "../shared/data"))

TINY = """
seed: 0
data: {synthetic: {classes: 4, train: 24, validation: 8, test: 8, frames: 10}}
model: {layers: 1, feed_forward: 32}
train: {epochs: 4, optimizer: adamw, learning_rate: 1e-3, batch_size: 4, milestones: [2, 4]}
"""


@cache
def preloaded() -> Preloaded:
    """The process that commands of tests are forked from: it has loaded third-party packages, and nothing of ours."""
    # A scheduler of a test ends every process that has its address; this one outlives it.
    kept = {key: value for key, value in plain_environment().items() if not key.startswith(("SLURM_", "PBS_"))}
    forking = Preloaded(environment=kept)
    atexit.register(forking.close)
    return forking


def plain_environment() -> dict[str, str]:
    """The variables of a user's shell, with the programs of this environment first."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PYTEST", "COV"))}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": "src:.",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONUNBUFFERED": "1",
    }


@cache
def migrated_store() -> bytes:
    """A SQLite store with all tables and no experiment but MLflow's own, whose artifacts lie nowhere."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mlflow.db")
        create_store(f"sqlite:///{path}")
        return path.read_bytes()


class _ForkedCommand:
    """A forked command whose messages can be read, as of ``subprocess.Popen``."""

    def __init__(self, process: Forked, stderr: IO[str]) -> None:
        self.pid, self.stderr, self._process = process.pid, stderr, process

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def poll(self) -> int | None:
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._process.wait(timeout)

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        messages = self.stderr.read()
        self.wait(timeout)
        return None, messages


Command = subprocess.Popen[str] | _ForkedCommand


class Workspace:
    """A copy of what a checkout holds, with a store of its own.

    Commands are forked from a process that has loaded third-party packages: real processes with real signals, started
    in a fraction of the time. ``cold`` starts a fresh interpreter.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        for name in ("projects", "configs"):
            shutil.copytree(REPOSITORY / name, folder / name)
        for name in ("MLproject", "pyproject.toml", "python_env.yaml"):
            shutil.copy(REPOSITORY / name, folder / name)
        (folder / "src").symlink_to(REPOSITORY / "src")
        (folder / "tests").mkdir()
        (folder / "tests/toy").symlink_to(REPOSITORY / "tests/toy")
        self.write("tiny.yaml", TINY)
        (folder / "mlflow.db").write_bytes(migrated_store())
        with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", (str(folder / "mlruns/0"),))

    def without_store(self) -> "Workspace":
        """The same folder before anything has been run in it."""
        (self.folder / "mlflow.db").unlink()
        return self

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        return plain_environment() | self.variables

    def command(self, *words: str) -> list[str]:
        """``python -m`` or another program of the environment."""
        return [str(Path(sys.executable).parent / words[0]), *words[1:]]

    def run(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        if (module := _module_of(words)) is None:
            return self.cold(*words, timeout=timeout)
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            process = self._fork(module, stdout.fileno(), stderr.fileno())
            try:
                status = process.wait(timeout)
            except BaseException:
                kill_tree(process.pid)
                raise
            stdout.seek(0)
            stderr.seek(0)
            return subprocess.CompletedProcess(words, status, stdout.read(), stderr.read())

    def _fork(self, words: Sequence[str], stdout: int, stderr: int) -> Forked:
        return preloaded().start(words, folder=self.folder, environment=self.environment, stdout=stdout, stderr=stderr)

    def cold(self, *words: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """The same in a fresh interpreter."""
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
            "mlflow",
            "run",
            ".",
            "-e",
            entry_point,
            "--env-manager",
            "local",
            "--experiment-name",
            "spoter",
            *options,
        )

    @contextmanager
    def started(self, *words: str, stdout: str = "stdout.log") -> Generator[Command]:
        """A command in the background; everything it started is gone afterwards."""
        with (self.folder / stdout).open("w") as output:
            process = self._forked(words, output.fileno()) or subprocess.Popen(
                self.command(*words),
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdout=output,
                stderr=subprocess.PIPE,
            )
            try:
                yield process
            finally:
                kill_tree(process.pid)
                process.wait(60)
                assert process.stderr is not None
                process.stderr.close()

    def _forked(self, words: Sequence[str], stdout: int) -> Command | None:
        if (module := _module_of(words)) is None:
            return None
        reading, writing = os.pipe()
        try:
            return _ForkedCommand(self._fork(module, stdout, writing), os.fdopen(reading))
        finally:
            os.close(writing)

    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")

    def query(self, task: str | None = "spoter", statuses: tuple[str, ...] = ("FINISHED",)) -> Query:
        return Query(task, client=self.client()).ended(*statuses)

    def artifacts(self, run_id: str) -> Path:
        return next((self.folder / "mlruns").glob(f"*/{run_id}/artifacts"))


def _module_of(words: Sequence[str]) -> list[str] | None:
    """A command as the words after ``python -m``; None for any other program."""
    if words[:2] == ("python", "-m"):
        return list(words[2:])
    modules = {"labtrail": "labtrail.console", "mlflow": "mlflow"}
    return [modules[words[0]], *words[1:]] if words[0] in modules else None


def wait_for_line(process: Command, wanted: str) -> list[str]:
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

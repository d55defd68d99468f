"""Processes forked from one that has loaded third-party packages: a start costs a fraction of a cold one.

Run as a script, this file is that process: it imports the packages it is told, none of them ours, and forks for each
command that comes over its socket. Environment, folder, search path and project code belong to the fork; every command
is a process in a session of its own, with its own signals and exit status. Nothing here initialises CUDA before a fork.

Why: docs/decisions/040-forked-commands.md
"""

import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What tasks load most: packages that are not installed are left out.
PACKAGES = (
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.data",
    "accelerate",
    "mlflow",
    "git",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.projects",
    "sqlalchemy.dialects.sqlite",
    "alembic.command",
    "pandas",
    "pyarrow.pandas_compat",
    "pydantic",
    "click",
    "yaml",
    "filelock",
    "psutil",
    "tqdm",
    "safetensors.torch",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "PIL.JpegImagePlugin",
    "scipy.stats",
    "scipy.optimize",
    "scipy.spatial.distance",
    "sklearn.datasets",
    "sklearn.ensemble",
    "optuna",
    "jinja2",
)
_LARGEST_MESSAGE = 1 << 20
# Bytes of a message's length.
_HEAD = 8
_POLL_S = 0.02


class Forked:
    """A command that was forked; the part of ``subprocess.Popen`` that is needed of it.

    Attributes:
        pid: of the process, which leads a session of its own.
        returncode: exit status, or the negative number of the signal that ended it; None while it runs.
    """

    def __init__(self, pid: int, report: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        """The exit status if the process has ended."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            status = os.read(self._report, 16)
            os.close(self._report)
            # Nothing at all: the process that would know is gone, and this one with it.
            self.returncode = int(status) if status else -signal.SIGKILL
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once the process has ended.

        Raises:
            subprocess.TimeoutExpired: it has not in that time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            select.select([self._report], [], [], _POLL_S if deadline is not None else 1.0)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal to a process that still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks the process to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process."""
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """The process that has loaded the packages; it ends with this one, and its commands are told."""

    def __init__(self, packages: Sequence[str] = PACKAGES, environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            packages: modules that are imported before any fork.
            environment: variables while they are imported; None: those of this process.
        """
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                env=dict(os.environ if environment is None else environment),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket.sendall(_framed(list(packages)))

    @property
    def pid(self) -> int:
        """Of the preloaded process, the parent of all that it forks."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return self._process.poll() is None

    def start(
        self, words: Sequence[str], *, folder: Path, environment: Mapping[str, str], stdout: int, stderr: int
    ) -> Forked:
        """Forks a command.

        Args:
            words: what would stand after ``python -m``: a module and its arguments.
            folder: in which it runs.
            environment: all its variables.
            stdout, stderr: descriptors that it writes to; they stay open here.

        Raises:
            OSError: the preloaded process is gone.
        """
        report, theirs = os.pipe()
        try:
            content = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
            message = _framed(content)
            socket.send_fds(self._socket, [message[:_HEAD]], [stdout, stderr, theirs])
            self._socket.sendall(message[_HEAD:])
        except OSError:
            os.close(report)
            raise
        finally:
            os.close(theirs)
        pid = os.read(report, 16)
        if not pid:
            os.close(report)
            raise ProcessLookupError("the preloaded process is gone")
        return Forked(int(pid), report)

    def close(self) -> None:
        """Ends the preloaded process; commands that still run go on without it."""
        self._socket.close()
        self._process.wait()


def _framed(content: object) -> bytes:
    """A message: its length in eight bytes, then JSON."""
    message = json.dumps(content).encode()
    return len(message).to_bytes(_HEAD, "big") + message


def _serve(control: socket.socket) -> None:
    """Imports the packages of the first message, then forks for each until the other side is gone."""
    packages = json.loads(_received(control, int.from_bytes(_received(control, _HEAD), "big")))
    ours = _search_path(os.environ)
    installed = [path for path in sys.path if path not in ours]
    for name in packages:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
        _tell_ends(reports)
        if control in ready:
            head, descriptors, _, _ = socket.recv_fds(control, _HEAD, 3)
            if not head:
                return
            asked = json.loads(_received(control, int.from_bytes(head, "big")))
            asked["installed"] = installed
            _fork(asked, descriptors, reports, (control, woken, wake))


def _received(control: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = control.recv(min(_LARGEST_MESSAGE, size - len(parts)))
        if not part:
            raise SystemExit("the process that asked is gone")
        parts += part
    return parts


def _tell_ends(reports: dict[int, int]) -> None:
    """Passes on the exit statuses of the commands that have ended."""
    for pid in list(reports):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            report = reports.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(report)


def _fork(
    asked: Mapping[str, Any], descriptors: Sequence[int], reports: dict[int, int], inherited: Sequence[socket.socket]
) -> None:
    stdout, stderr, report = descriptors
    pid = os.fork()
    if pid == 0:
        for other in (*reports.values(), report):
            os.close(other)
        for connection in inherited:
            connection.close()
        _become(asked, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    reports[pid] = report
    # Sixteen characters, so that a status that follows at once is not read with it.
    os.write(report, f"{pid:<16}".encode())


def _become(asked: Mapping[str, Any], stdout: int, stderr: int) -> None:
    """Runs a command as if this process had just been started, and ends."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        for descriptor, number in ((stdout, 1), (stderr, 2)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(asked["folder"])
        _take_environment(asked["environment"], asked["installed"])
        module, *arguments = asked["words"]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = _status_of(end)
    except BaseException:
        traceback.print_exc()
    finally:
        _end(status)


def _take_environment(environment: Mapping[str, str], installed: Sequence[str]) -> None:
    """The variables, the search path and the generators that a new process would have."""
    os.environ.clear()
    os.environ.update(environment)
    here = [] if environment.get("PYTHONSAFEPATH") else [str(Path.cwd())]
    sys.path[:] = [*here, *_search_path(environment), *installed]
    sys.path_importer_cache.clear()
    if environment.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(write_through=True)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()


def _search_path(environment: Mapping[str, str]) -> list[str]:
    """Folders of PYTHONPATH, as seen from the current one."""
    return [str(Path(path).absolute()) for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]


def _status_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code
    print(end.code, file=sys.stderr)
    return 1


def _end(status: int) -> None:
    """Ends as an interpreter does: threads, exit handlers and buffers first."""
    for step in (threading._shutdown, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # ty: ignore[missing-attribute]
        with contextlib.suppress(Exception):
            step()
    os._exit(status & 0xFF)


def _end_with_parent() -> None:
    """Asks the kernel to end this process with the one that started it (Linux)."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    _serve(socket.socket(fileno=int(sys.argv[1])))

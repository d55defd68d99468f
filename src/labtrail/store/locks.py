"""Locks of the working folder, freed by the system when their process dies, and what tells whose they are."""

import socket
import uuid
from collections.abc import Generator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from labtrail.files import write_atomically
from labtrail.store import contract, lab


def place() -> str:
    """A name for this working folder that no other has: locks tell a live run from a dead one only within it."""
    path = lab.state_folder() / "place"
    if not path.exists():
        with locked("place"):
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex.encode())
    return path.read_text()


def whereabouts() -> dict[str, str]:
    """Where locks tell whether a run's process lives."""
    return {contract.PLACE: place(), contract.HOST: socket.gethostname()}


@contextmanager
def locked(name: str) -> Generator[None]:
    """Holds a lock of this working folder; freed by the system when the process dies."""
    with lock_of(name):
        yield


def lock_of(name: str) -> FileLock:
    """A lock of this working folder, not yet taken."""
    folder = lab.state_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


@contextmanager
def held(name: str, patience_s: float = 0.0) -> Generator[FileLock | None]:
    """As ``locked``, but waits no longer than told: None if another process holds the lock all the time."""
    lock = lock_of(name)
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        yield None
        return
    try:
        yield lock
    finally:
        lock.release()

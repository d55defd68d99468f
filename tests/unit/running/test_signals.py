"""A signal raises once; a main thread that hangs is ended by the deadline."""

import os
import signal
import subprocess
import sys

import pytest

from labtrail.running.signals import Guard, Interrupted
from tests.workspace import REPOSITORY


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_first_signal_raises_and_later_ones_do_not(number: signal.Signals) -> None:
    guard = Guard(60, lambda _name: None)
    guard.arm()
    try:
        with pytest.raises(Interrupted) as caught:
            os.kill(os.getpid(), number)
        assert str(caught.value) == number.name
        assert caught.value.exit_status == 128 + number
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        guard.close()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_disarmed_guard_ignores_signals() -> None:
    guard = Guard(60, lambda _name: None)
    guard.arm()
    guard.disarm()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        guard.close()


HANGS = """
import threading
from labtrail.running.signals import Guard

Guard(0.5, lambda name: print("last words:", name, flush=True)).arm()
greeting = "ready"
# The handler's exception is swallowed, and the main thread waits on: as in a collective that never returns.
while True:
    try:
        if greeting:
            print(greeting, flush=True)
            greeting = ""
        threading.Event().wait()
    except BaseException:
        continue
"""


def test_main_thread_that_hangs_is_ended() -> None:
    environment = {"PYTHONPATH": str(REPOSITORY / "src")}
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM
        assert process.stdout.read().endswith("last words: SIGTERM\n")

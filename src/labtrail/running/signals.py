"""TERM, INT and USR1 as one exception, raised once, and a deadline for a main thread that cannot answer."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(BaseException):
    """A signal asked this process to stop; not an Exception, so that no loop swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """The exit status that shells give a process ended by this signal."""
        return 128 + self.number


def stop_by_exception() -> None:
    """Until a Guard takes over, each watched signal raises ``Interrupted``; main thread only."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in WATCHED:
        signal.signal(number, stop)


def ignore_signals() -> None:
    """The process is ending and must not be interrupted again."""
    for number in WATCHED:
        signal.signal(number, signal.SIG_IGN)


class Guard:
    """While armed, the first watched signal raises ``Interrupted`` in the main thread; later ones are ignored.

    Nothing is raised once work has begun to end: a second exception there could leave a run open.
    """

    def __init__(self, grace_s: float, last_words: Callable[[str], None]) -> None:
        """
        Args:
            grace_s: seconds after a signal in which the main thread must have ended; it may hang in a collective.
            last_words: called with the signal's name after that time; then the process exits.
        """
        self._armed = False
        self._grace_s = grace_s
        self._last_words = last_words
        self._ended = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._thread: threading.Thread | None = None

    def arm(self) -> None:
        """Takes the signals over; main thread only."""
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._watch, name="labtrail-signals", daemon=True)
        self._thread.start()
        self._armed = True

    def disarm(self) -> None:
        """From here on signals are ignored, and the deadline is off: the main thread has begun to end."""
        self._armed = False
        self._ended.set()

    def close(self) -> None:
        """Gives the signals back; the work has ended."""
        self._armed = False
        self._ended.set()
        signal.set_wakeup_fd(-1)
        for number in WATCHED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        self._writer.close()
        if self._thread is not None:
            self._thread.join()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise Interrupted(number)

    def _watch(self) -> None:
        # The wake-up descriptor also gets signals of no interest, such as the end of loader workers.
        with self._reader:
            while received := self._reader.recv(1):
                if received[0] in WATCHED:
                    if not self._ended.wait(self._grace_s):
                        self._last_words(signal.Signals(received[0]).name)
                        os._exit(128 + received[0])
                    return

"""End notes of the ranks of one launch, so that the run's reason names the rank that failed.

When one rank fails, the others see only a closed connection or a signal from the launcher. Each rank
therefore leaves a note when it ends; whoever closes the run reads them first.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from labtrail.files import remove, write_atomically

EndStatus = Literal["FINISHED", "FAILED", "KILLED"]

_PATIENCE_S = 1.5
_POLL_S = 0.05


@dataclass(frozen=True)
class Verdict:
    """How a launch ended.

    Attributes:
        status: FAILED if any rank failed or vanished, otherwise KILLED.
        reason: what happened, with the rank where there are several.
    """

    status: EndStatus
    reason: str


class RankReports:
    """The notes of all ranks of a launch, in a folder that all of them see."""

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        self._folder = folder
        self._rank = rank
        self._world = world
        self._note({})

    def report_end(self, status: EndStatus, reason: str, *, consequence: bool = False) -> None:
        """Says how this rank ended.

        Args:
            status: how.
            reason: the error or the signal; nothing after a good end.
            consequence: whether the error only tells that another rank could not be reached.
        """
        self._note({"status": status, "reason": reason, "consequence": consequence, "at": time.time()})

    def verdict(self, this_end: Verdict) -> Verdict:
        """The cause of the end, after this rank has left its note; waits a moment for the notes of others.

        Args:
            own: how this rank ended; stands if nothing better is known.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while len(self._ended()) + len(self._vanished()) < self._world and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        ended, vanished = self._ended(), self._vanished()
        failed = _in_order(ended, "FAILED")
        causes = [rank for rank in failed if not ended[rank]["consequence"]]
        if causes:
            return Verdict("FAILED", self._named(causes[0], ended))
        if vanished:
            return Verdict("FAILED", f"rank {min(vanished)} vanished (killed, or out of memory)")
        if not failed:
            return this_end
        killed = _in_order(ended, "KILLED")
        if killed and ended[killed[0]]["at"] < ended[failed[0]]["at"]:
            return Verdict("KILLED", self._named(killed[0], ended))
        # Some rank could not reach another: the one that has not failed by itself did not answer.
        silent = sorted(set(range(self._world)) - set(failed))
        suspect = f"rank {silent[0]} gave no sign; " if silent else ""
        return Verdict("FAILED", suspect + self._named(failed[0], ended))

    def _named(self, rank: int, ended: Mapping[int, Mapping[str, Any]]) -> str:
        reason = ended[rank]["reason"]
        return reason if self._world == 1 else f"rank {rank}: {reason}"

    def closes_run(self) -> bool:
        """Whether this rank closes the run: the lowest that has not vanished."""
        return self._world == 1 or self._rank == min(set(range(self._world)) - self._vanished())

    def clear(self) -> None:
        """Removes the notes of a launch that ended well."""
        if self._rank == 0:
            remove(self._folder)

    def _note(self, content: Mapping[str, Any]) -> None:
        identity = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
        write_atomically(self._path(self._rank), json.dumps({**identity, **content}).encode())

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank_{rank}.json"

    def _notes(self) -> dict[int, dict[str, Any]]:
        paths = ((rank, self._path(rank)) for rank in range(self._world))
        return {rank: json.loads(path.read_text()) for rank, path in paths if path.exists()}

    def _ended(self) -> dict[int, dict[str, Any]]:
        return {rank: note for rank, note in self._notes().items() if "status" in note}

    def _vanished(self) -> set[int]:
        """Ranks of this host that left no end note and whose process is gone."""
        here = socket.gethostname()
        open_notes = {rank: note for rank, note in self._notes().items() if "status" not in note}
        return {rank for rank, note in open_notes.items() if note["host"] == here and not _alive(note)}


def _in_order(notes: Mapping[int, Mapping[str, Any]], status: EndStatus) -> list[int]:
    """The ranks that ended this way, the earliest first."""
    return sorted((rank for rank in notes if notes[rank]["status"] == status), key=lambda rank: notes[rank]["at"])


def _alive(note: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(note["pid"])
        return process.create_time() == note["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

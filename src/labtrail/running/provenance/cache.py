"""What has been read of files, by their content, kept between processes."""

import json
from pathlib import Path
from typing import Any

from labtrail.files import write_atomically
from labtrail.running.provenance.module import ModuleCode, read_module
from labtrail.running.provenance.normalise import short_digest

# Of normalising and of reading files: a digest under another rule says nothing about this one.
RULE = "2"


class Readings:
    """Reads each content once.

    Args:
        path: of a JSON file; None: kept nowhere.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._stored: dict[str, dict[str, Any]] = {}
        self._read: dict[str, ModuleCode] = {}
        self._has_new = False
        if path is not None and path.is_file():
            self._stored = _stored(path)

    def of(self, source: bytes) -> ModuleCode:
        """What a file of this content has."""
        key = short_digest(source)
        if key not in self._read:
            if key in self._stored:
                self._read[key] = ModuleCode.from_json(self._stored[key])
            else:
                self._read[key] = read_module(source)
                self._stored[key] = self._read[key].to_json()
                self._has_new = True
        return self._read[key]

    def save(self) -> None:
        """Keeps what is new; of two processes at once, one's readings are made again by a later one."""
        if self._path is not None and self._has_new:
            # What is not reached any more is left out: each start reads the whole file.
            files = {key: self._stored[key] for key in self._read}
            write_atomically(self._path, json.dumps({"rule": RULE, "files": files}).encode())
            self._has_new = False


def _stored(path: Path) -> dict[str, dict[str, Any]]:
    """A cache that is damaged or of another rule is empty."""
    try:
        content = json.loads(path.read_bytes())
        return content["files"] if content["rule"] == RULE else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

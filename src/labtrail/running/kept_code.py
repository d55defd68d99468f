"""The source that a run has kept: read, told, and made a folder from which processes can run."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from labtrail.errors import DataError, QueryError
from labtrail.files import write_atomically
from labtrail.query.find import artifact, artifact_names
from labtrail.query.selection import RunRow
from labtrail.running.provenance.code import CodeDigest, code_from
from labtrail.running.provenance.pins import adopt
from labtrail.running.provenance.source import COPY, FACTS, PATCH, Source, folder_of
from labtrail.running.provenance.sources import Folder
from labtrail.running.provenance.tree import GitError, lay_out, top_of
from labtrail.store import contract, lab

_log = logging.getLogger("labtrail")


class KeptCode(NamedTuple):
    """What an attempt at a run has kept of its source.

    Attributes:
        run_id: of the run.
        folder: name of the artifact folder.
        source: what was taken.
        code: digest of the code that the task reached.
        roots: ``module:name`` from which it was reached.
        command: words after ``python`` that start the task, without its options.
        rule: by which the digest was made.
    """

    run_id: str
    folder: str
    source: Source
    code: str
    rule: str
    roots: tuple[str, ...]
    command: tuple[str, ...]

    def environment(self) -> dict[str, Any]:
        """What it ran on."""
        return json.loads(artifact(self.run_id, f"{self.folder}/environment.json").read_bytes())

    def copy(self) -> Path:
        """The folder of the run's own copy of its code, from which processes can run.

        Raises:
            DataError: no copy was kept, or it is damaged.
        """
        names = artifact_names(self.run_id, self.folder)
        if COPY not in names:
            raise DataError(f"run {self.run_id}: no copy of its code was kept ({self.source.problem or 'it is gone'})")
        files = [artifact(self.run_id, f"{self.folder}/{name}") for name in (COPY, FACTS)]
        return adopt(files, lab.state_folder(), self.source.digest)

    def code_in(self, roots: Sequence[Path]) -> CodeDigest:
        """The code that the task reaches in a tree, by today's rule.

        Args:
            roots: folders that would stand on the import path.
        """
        return code_from(self.roots, None, Folder(roots))

    def places(self) -> Iterator[tuple[str, Sequence[Path]]]:
        """Where its code can be had, best first: in words, and the folders that belong on the import path."""
        try:
            yield "the run's own copy", [self.copy()]
        except DataError as error:
            _log.warning("%s", error)
        top = top_of(lab.working_folder())
        if top is None or self.source.tree is None:
            return
        folder = lab.state_folder().absolute() / "code" / f"tree-{self.source.tree.kept[:16]}"
        try:
            if not folder.is_dir():
                lay_out(top, self.source.tree, self._patch(), folder)
        except GitError as error:
            _log.warning("%s", error)
            return
        # A process that runs from it says what it is, and has no copy to hand on.
        facts = replace(self.source, digest="", problem="laid out from git").to_json()
        write_atomically(folder_of(lab.state_folder(), folder.name) / FACTS, json.dumps(facts).encode())
        yield "as git kept it", sorted({folder / place for place in self.source.places.values() if place})

    def _patch(self) -> bytes:
        names = artifact_names(self.run_id, self.folder)
        return artifact(self.run_id, f"{self.folder}/{PATCH}").read_bytes() if PATCH in names else b""


def kept_code(run: RunRow) -> KeptCode:
    """What the last attempt at a run has kept.

    Raises:
        DataError: it has kept nothing, as runs of earlier versions have not.
    """
    folder = contract.source_folder(int(run.tags.get(contract.ATTEMPTS, "1")))
    try:
        facts = json.loads(artifact(run.run_id, f"{folder}/{FACTS}").read_bytes())
        lists = {name: tuple(facts[name]) for name in ("roots", "command")}
        return KeptCode(run.run_id, folder, Source.from_json(facts), facts["code"], facts["rule"], **lists)
    except (QueryError, OSError, ValueError, KeyError) as error:
        raise DataError(f"run {run.run_id}: it has not kept the code that it ran from ({error})") from error

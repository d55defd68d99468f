"""Two codes of a task beside each other: the definitions in which they differ, and their lines."""

import sys
from dataclasses import dataclass

from labtrail.errors import DataError
from labtrail.running.kept_code import KeptCode
from labtrail.running.provenance.code import CodeChange, CodeDigest, change_between, code_from
from labtrail.running.provenance.module import text_of
from labtrail.running.provenance.sources import Folder, ImportPaths, Sources
from labtrail.store import lab


@dataclass(frozen=True)
class Side:
    """One of two codes that are compared.

    Attributes:
        code: what the task reaches.
        sources: where its modules lie.
    """

    code: CodeDigest
    sources: Sources

    def change_to(self, other: "Side") -> CodeChange:
        """The definitions in which they differ."""
        return change_between(self.code, other.code)

    def lines_to(self, other: "Side", change: CodeChange) -> dict[str, tuple[str, str]]:
        """Definition -> its text here and there, of those that differ; effects of importing a module have none."""
        names = sorted({*change.changed, *change.new, *change.gone})
        texts = {name: (self._text(name), other._text(name)) for name in names}
        return {name: pair for name, pair in texts.items() if any(pair)}

    def _text(self, name: str) -> str:
        module, _, symbol = name.rpartition(".")
        path = self.sources.path_of(module) if " " not in name else None
        return text_of(path.read_text(encoding="utf-8"), symbol) if path else ""


def side_of(kept: KeptCode) -> Side:
    """The code that a run kept.

    Raises:
        DataError: it is nowhere.
    """
    for _, roots in kept.places():
        return Side(kept.code_in(roots), Folder(roots))
    raise DataError(f"run {kept.run_id}: its code is neither among its artifacts nor in git")


def present_side(kept: KeptCode) -> Side:
    """What the same roots reach in the files that this process would import."""
    folder = str(lab.working_folder())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    paths = ImportPaths({root.partition(".")[0] for root in kept.roots})
    return Side(code_from(kept.roots, None, paths), paths)

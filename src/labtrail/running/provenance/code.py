"""The code that decides a task's numbers, as one digest and as digests of functions that can be named.

Why: docs/decisions/048-the-code-that-a-task-reaches.md
"""

import functools
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from labtrail.config import fingerprint, flatten
from labtrail.running.provenance.cache import RULE, Readings
from labtrail.running.provenance.reach import Code, Name
from labtrail.running.provenance.sources import MAIN, ImportPaths, Sources, main_file

# Of labtrail's own modules those that can decide a number; all below a name that ends with a dot.
ASKS = (
    "labtrail.config",
    "labtrail.record",
    "labtrail.statistics",
    "labtrail.query.frames",
    "labtrail.running.batches",
    "labtrail.running.compiling",
    "labtrail.running.launch",
    "labtrail.running.remat",
    "labtrail.running.seeding",
    "labtrail.running.updater",
    "labtrail.stepgraph.",
)
# Those that keep training states: that a continued run is equal to the bit is their promise and not the task's. Where
# they have changed, a run that is continued says so, and nobody is asked.
TELLS = (
    "labtrail.running.checkpoint",
    "labtrail.running.progress",
    "labtrail.running.snapshot",
    "labtrail.running.state",
)
_ADDRESS = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)")
_MOST_NAMED = 4


class CodeDigest(NamedTuple):
    """The code of a task under one config.

    Attributes:
        digest: of all definitions, 16 hexadecimal digits.
        definitions: ``module.name`` -> digest.
        packages: installed packages that these use.
        blind: uses that cannot be followed: computed imports, ``eval``.
        rule: by which these digests were made; others cannot be compared with them.
        roots: ``module:name`` from which they were reached.
        top_levels: packages and modules that hold them, or that are imported on the way.
        recording: digest of what writes and reads training states, which decides no number.
    """

    digest: str
    definitions: Mapping[str, str]
    packages: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()
    rule: str = RULE
    roots: tuple[str, ...] = ()
    top_levels: tuple[str, ...] = ()
    recording: str = ""

    def to_json(self) -> dict[str, Any]:
        """As it is kept with a run."""
        return self._asdict()

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "CodeDigest":
        """As ``to_json`` gave it."""
        packages, blind, roots, top_levels = (
            tuple(stored.get(name, ())) for name in ("packages", "blind", "roots", "top_levels")
        )
        recording = stored.get("recording", "")
        return cls(
            stored["digest"], stored["definitions"], packages, blind, stored["rule"], roots, top_levels, recording
        )


# Of a task without any function of its own.
NO_CODE = CodeDigest("", {})


class CodeChange(NamedTuple):
    """Definitions in which two codes differ."""

    changed: tuple[str, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{word} {_few(names)}" for word, names in zip(self._fields, self, strict=True) if names]
        return "; ".join(parts)


def _few(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def change_between(old: CodeDigest, new: CodeDigest) -> CodeChange:
    """What has changed from one code to another; empty if nothing has."""
    before, after = old.definitions, new.definitions
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    return CodeChange(
        tuple(changed), tuple(sorted(after.keys() - before.keys())), tuple(sorted(before.keys() - after.keys()))
    )


def counts(module: str) -> bool:
    """Whether a module can decide a number: all but most of labtrail's own."""
    if module.partition(".")[0] != "labtrail":
        return True
    return any(module == known or (known.endswith(".") and f"{module}.".startswith(known)) for known in ASKS)


def code_of(
    parts: Iterable[object], configs: Iterable[BaseModel], cache: Path | None, sources: Sources | None = None
) -> CodeDigest:
    """The code that some functions and classes reach, and what configs name by an address.

    Args:
        parts: functions, classes, or functions that are named by an address (``lazy``).
        configs: whose values may be addresses ``package.module:name``.
        cache: file that keeps what was read of files; None: none.
        sources: where modules lie; None: where this process imports them from.
    """
    named = [name for config in configs for name in _named_in(config)]
    return _reached_from([name_of(part) for part in parts], named, cache, sources)


def code_from(roots: Iterable[str], cache: Path | None, sources: Sources) -> CodeDigest:
    """The code that some definitions reach in another tree.

    Args:
        roots: as ``CodeDigest.roots`` has them.
        cache, sources: as for ``code_of``.
    """
    return _reached_from([Name(*root.split(":")) for root in roots], [], cache, sources)


def _reached_from(roots: list[Name], named: list[Name], cache: Path | None, sources: Sources | None) -> CodeDigest:
    readings = Readings(cache)
    sources = sources or ImportPaths({root.module.partition(".")[0] for root in roots})
    code = Code(sources, readings, counts)
    roots = [*roots, *(name for name in named if code.module(name.module) is not None)]
    reached = code.reach(roots)
    recording = Code(sources, readings, TELLS.__contains__).reach([Name(module, "*") for module in TELLS])
    readings.save()
    definitions = dict(sorted(reached.definitions.items()))
    return CodeDigest(
        fingerprint(definitions),
        definitions,
        tuple(sorted(reached.packages)),
        reached.blind,
        roots=tuple(dict.fromkeys(f"{root.module}:{root.name}" for root in roots)),
        top_levels=tuple(sorted({module.partition(".")[0] for module in reached.modules})),
        recording=fingerprint(dict(sorted(recording.definitions.items()))),
    )


def name_of(part: object) -> Name:
    """Where a function or a class is defined."""
    while isinstance(part, functools.partial):
        part = part.func
    if address := getattr(part, "address", ""):
        module, _, name = str(address).partition(":")
        return Name(module, name)
    owner = part if hasattr(part, "__qualname__") else type(part)
    module, qualified = str(owner.__module__), str(owner.__qualname__)
    top = qualified.partition(".")[0]
    # A function without a name can be anywhere in its file.
    return Name(_imported_name(module), "*" if top == "<lambda>" else top)


def _imported_name(module: str) -> str:
    """The name under which a module is imported, where it was started as a program."""
    if module != MAIN:
        return module
    spec = getattr(sys.modules[MAIN], "__spec__", None)
    script = main_file()
    return str(spec.name) if spec is not None else script.stem if script is not None else module


def _named_in(config: BaseModel) -> list[Name]:
    texts = [text for text in flatten(config).values() if isinstance(text, str)]
    return [Name(*match.groups()) for text in texts if (match := _ADDRESS.fullmatch(text))]

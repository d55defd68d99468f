"""What one file of Python defines, uses, imports and does when it is imported; a function of its text alone."""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from labtrail.running.provenance.normalise import (
    digest_of,
    dotted,
    is_log_line,
    normalised,
    short_digest,
    without_fields,
)

# Decorators that wrap and do nothing else; under any other one, a definition has an effect when it is imported.
_WRAPPERS = {
    "dataclass",
    "dataclasses.dataclass",
    "cache",
    "functools.cache",
    "lru_cache",
    "functools.lru_cache",
    "cached_property",
    "property",
    "staticmethod",
    "classmethod",
    "contextmanager",
    "contextlib.contextmanager",
    "override",
    "overload",
    "total_ordering",
    "torch.no_grad",
    "torch.inference_mode",
}
_BY_NAME = ("import_module", "__import__", "run_module", "run_path")
_BY_TEXT = ("eval", "exec", "compile")
_ADDRESS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Import(NamedTuple):
    """A name that an import binds.

    Attributes:
        bound: the name; empty where only a module is loaded.
        module: as it is written.
        level: leading dots.
        symbol: what is taken from the module; empty: the module itself.
        loads: whether importing this file imports it.
    """

    bound: str
    module: str
    level: int
    symbol: str
    loads: bool


@dataclass(frozen=True)
class Definition:
    """A function, a class or an assignment at the top of a file, or an effect of importing it.

    Attributes:
        digest: of its normalised code.
        bare: of a class, the same without its annotated fields; else empty.
        bases: of a class, as they are written.
        uses: names and dotted names that it reads, and addresses ``package.module:name`` in its strings.
        line: first line.
    """

    digest: str
    bare: str
    bases: tuple[str, ...]
    uses: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class ModuleCode:
    """One file.

    Attributes:
        definitions: by name.
        effects: what is done when it is imported.
        imports: all, also those within functions.
        blind: uses that cannot be followed, with their lines.
    """

    definitions: dict[str, Definition]
    effects: tuple[Definition, ...]
    imports: tuple[Import, ...]
    blind: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For the cache."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "ModuleCode":
        """As ``to_json`` gave it."""
        return cls(
            {name: _definition(value) for name, value in stored["definitions"].items()},
            tuple(_definition(value) for value in stored["effects"]),
            tuple(Import(*value) for value in stored["imports"]),
            tuple(stored["blind"]),
        )


def _definition(stored: dict[str, Any]) -> Definition:
    return Definition(stored["digest"], stored["bare"], tuple(stored["bases"]), tuple(stored["uses"]), stored["line"])


def read_module(source: bytes) -> ModuleCode:
    """All that is asked about a file; one that is not Python of this version is a whole that cannot be followed."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        whole = Definition(short_digest(source), "", (), (), 1)
        return ModuleCode({}, (whole,), (), (f"not Python of this version: {error}",))
    definitions: dict[str, Definition] = {}
    effects: list[Definition] = []
    imports = list(_imports(tree.body, loads=True))
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_skipped(statement):
            continue
        entry = _described(statement)
        names, has_effect = _bound(statement)
        if has_effect:
            effects.append(entry)
        for name in names:
            definitions[name] = _joined(definitions[name], entry) if name in definitions else entry
    return ModuleCode(definitions, tuple(effects), tuple(imports), tuple(_blind_spots(tree)))


def text_of(source: str, name: str) -> str:
    """The lines that define a name at the top of a file; empty where nothing does."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return ""
    lines, defining = source.splitlines(), []
    for statement in statements:
        if name in _bound(statement)[0]:
            decorators = [node.lineno for node in getattr(statement, "decorator_list", ())]
            defining += lines[min([statement.lineno, *decorators]) - 1 : statement.end_lineno]
    return "\n".join(defining)


def _is_skipped(statement: ast.stmt) -> bool:
    """Texts, log lines, and blocks for type checkers and for scripts."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return True
    return is_log_line(statement) or _is_for_checkers(statement) or _is_for_scripts(statement)


def _is_for_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and dotted(statement.test).endswith("TYPE_CHECKING")


def _is_for_scripts(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in {
        node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)
    }


def _described(statement: ast.stmt) -> Definition:
    handed_in = _names_in_annotations(statement)
    bare, bases = "", ()
    if isinstance(statement, ast.ClassDef):
        bases = tuple(filter(None, map(dotted, statement.bases)))
        # Normalising changes nodes in place: the copy is made of text.
        (copied,) = ast.parse(ast.unparse(without_fields(statement))).body
        bare = digest_of(normalised([copied]))
    kept = normalised([statement])
    uses = handed_in.union(*map(_used, kept)) if kept else handed_in
    return Definition(digest_of(kept), bare, bases, tuple(sorted(uses)), statement.lineno)


def _bound(statement: ast.stmt) -> tuple[Sequence[str], bool]:
    """(names that a statement at the top binds, whether importing it does something besides)."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        decorators = {dotted(node.func if isinstance(node, ast.Call) else node) for node in statement.decorator_list}
        return [statement.name], not decorators <= _WRAPPERS
    targets = (
        statement.targets
        if isinstance(statement, ast.Assign)
        else [statement.target]
        if isinstance(statement, ast.AnnAssign)
        else []
    )
    if targets and all(isinstance(target, ast.Name) for target in targets):
        return [target.id for target in targets if isinstance(target, ast.Name)], False
    return sorted(_stored(statement)), True


def _stored(statement: ast.stmt) -> set[str]:
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _joined(first: Definition, second: Definition) -> Definition:
    """A name that is bound twice, as under a condition."""
    return Definition(
        short_digest((first.digest + second.digest).encode()),
        short_digest((first.bare + second.bare).encode()) if first.bare and second.bare else "",
        tuple(dict.fromkeys((*first.bases, *second.bases))),
        tuple(sorted({*first.uses, *second.uses})),
        first.line,
    )


def _used(node: ast.AST) -> set[str]:
    """Names and longest dotted names that are read, and addresses in strings."""
    names, inner = set[str](), set[int]()
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and id(part) not in inner:
            if name := dotted(part):
                names.add(name)
            owner = part.value
            while isinstance(owner, ast.Attribute):
                inner.add(id(owner))
                owner = owner.value
            inner.add(id(owner))
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and id(part) not in inner:
            names.add(part.id)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and _ADDRESS.fullmatch(part.value):
            names.add(part.value)
        elif isinstance(part, ast.Call) and dotted(part.func).endswith("import_module"):
            names.update(f"{name.value}:*" for name in part.args[:1] if isinstance(name, ast.Constant))
    return names


def _names_in_annotations(node: ast.AST) -> set[str]:
    """Names in annotations, and in the fields of classes: objects of these classes are handed in."""
    names = set[str]()
    for part in ast.walk(node):
        parts: Sequence[ast.AST | None] = ()
        if isinstance(part, ast.arg):
            parts = (part.annotation,)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = (part.returns,)
        elif isinstance(part, ast.AnnAssign):
            parts = (part.annotation, part.value)
        for annotation in filter(None, parts):
            names |= _used(annotation) | set(_written_names(annotation))
    return names


def _written_names(annotation: ast.AST) -> Iterator[str]:
    """Names in annotations that are written as strings."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                yield from _used(ast.parse(node.value, mode="eval"))
            except SyntaxError:
                continue


def _imports(body: Iterable[ast.stmt], *, loads: bool) -> Iterator[Import]:
    """Imports of a body; those within functions and those for type checkers are not loaded with the file."""
    for statement in body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from _of_import(statement, loads)
        elif _is_for_checkers(statement):
            assert isinstance(statement, ast.If)
            yield from _imports(statement.body, loads=False)
            yield from _imports(statement.orelse, loads=loads)
        else:
            is_run = loads and isinstance(statement, ast.If | ast.Try | ast.With) and not _is_for_scripts(statement)
            for node in ast.walk(statement):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield from _of_import(node, is_run)


def _of_import(node: ast.Import | ast.ImportFrom, loads: bool) -> Iterator[Import]:
    if isinstance(node, ast.ImportFrom):
        yield from (
            Import(alias.asname or alias.name, node.module or "", node.level, alias.name, loads) for alias in node.names
        )
        return
    for alias in node.names:
        top = alias.name.partition(".")[0]
        if alias.asname:
            yield Import(alias.asname, alias.name, 0, "", loads)
            continue
        yield Import(top, top, 0, "", loads)
        if top != alias.name:
            yield Import("", alias.name, 0, "", loads)


def _blind_spots(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        method = name.rpartition(".")[2]
        computed = not (node.args and isinstance(node.args[0], ast.Constant))
        if (method in _BY_NAME and computed) or name in _BY_TEXT:
            yield f"{name} in line {node.lineno}"
        elif name == "getattr" and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant):
            yield f"getattr of a computed name in line {node.lineno}"

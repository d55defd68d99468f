"""Which definitions can be reached from some names, by following every name that they use.

Nothing is imported. Objects are handed in, too: what an annotation names is followed, though not counted itself.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from labtrail.running.provenance.cache import Readings
from labtrail.running.provenance.module import Definition, ModuleCode
from labtrail.running.provenance.sources import Sources

_EVERYTHING = "*"
_CONFIG_MODULE, _CONFIG_CLASSES = "labtrail.config", {"Section", "Config"}
# They stand in annotations of config fields: what is no part of the key, and when states are saved.
_CONFIG_MARKS = {"Neutral", "NeutralMark", "Checkpointing"}


class Name(NamedTuple):
    """A definition at the top of a module; ``*``: all of them."""

    module: str
    name: str


class Reached(NamedTuple):
    """What was found.

    Attributes:
        definitions: ``module.name`` -> digest; effects of importing a module are ``module (on import) 0``.
        modules: whose import has effects that count, or that hold one of the definitions.
        packages: installed packages and modules of the standard library that are used.
        blind: ``module: use`` that cannot be followed.
    """

    definitions: dict[str, str]
    modules: frozenset[str]
    packages: frozenset[str]
    blind: tuple[str, ...]


class Code:
    """The code of one tree.

    Args:
        sources: where modules lie.
        readings: what files have.
        counts: whether a module can decide a number; of others nothing is followed.
    """

    def __init__(self, sources: Sources, readings: Readings, counts: Callable[[str], bool]) -> None:
        self._sources, self._readings, self._counts = sources, readings, counts
        self._modules: dict[str, ModuleCode | None] = {}
        self._bound: dict[str, dict[str, list[Name | str]]] = {}
        self._resolved: dict[tuple[str, str], list[Name]] = {}

    def module(self, name: str) -> ModuleCode | None:
        """What a module has; None if it is not part of this code."""
        if name not in self._modules:
            path = self._sources.path_of(name)
            self._modules[name] = None if path is None else self._readings.of(path.read_bytes())
        return self._modules[name]

    def reach(self, roots: Iterable[Name]) -> Reached:
        """All that the roots use, directly or not."""
        digests: dict[str, str] = {}
        loaded: set[str] = set()
        packages: set[str] = set()
        waiting = list(roots)
        while waiting:
            root = waiting.pop()
            code = self.module(root.module)
            if code is None:
                packages.add(root.module.partition(".")[0])
                continue
            if not self._counts(root.module) or (root.module == _CONFIG_MODULE and root.name in _CONFIG_MARKS):
                continue
            waiting += self._load(root.module, loaded, digests)
            for name in code.definitions if root.name == _EVERYTHING else [root.name]:
                definition, key = code.definitions.get(name), f"{root.module}.{name}"
                if definition is None or key in digests:
                    continue
                bare = definition.bare and self._is_config(Name(root.module, name))
                digests[key] = definition.bare if bare else definition.digest
                waiting += self._all(root.module, definition)
        blind = [f"{module}: {use}" for module in sorted(loaded) for use in self._blind(module)]
        return Reached(digests, frozenset(loaded), frozenset(packages), tuple(blind))

    def _load(self, module: str, loaded: set[str], digests: dict[str, str]) -> Iterator[Name]:
        """Importing a module does what stands open in it and in all that it imports."""
        waiting = [module, *_packages_of(module)]
        while waiting:
            name = waiting.pop()
            code = self.module(name)
            if name in loaded or code is None or not self._counts(name):
                continue
            loaded.add(name)
            for number, effect in enumerate(code.effects):
                digests[f"{name} (on import) {number}"] = effect.digest
                yield from self._all(name, effect)
            waiting += self._imported(name, code)

    def _imported(self, module: str, code: ModuleCode) -> Iterator[str]:
        for imported in code.imports:
            if imported.loads:
                full = self._absolute(module, imported.module, imported.level)
                for name in (full, f"{full}.{imported.symbol}") if imported.symbol else (full,):
                    yield name
                    yield from _packages_of(name)

    def _blind(self, module: str) -> tuple[str, ...]:
        code = self.module(module)
        return code.blind if code else ()

    def _all(self, module: str, definition: Definition) -> Iterator[Name]:
        for use in definition.uses:
            yield from self.resolve(module, use)

    def _is_config(self, name: Name, inheriting: frozenset[Name] = frozenset()) -> bool:
        """Whether a class is a config by inheritance, so that its fields have their values in the key."""
        if name.module == _CONFIG_MODULE and name.name in _CONFIG_CLASSES:
            return True
        code = self.module(name.module)
        definition = code.definitions.get(name.name) if code else None
        if definition is None or name in inheriting:
            return False
        bases = {base for written in definition.bases for base in self.resolve(name.module, written)}
        return any(self._is_config(base, inheriting | {name}) for base in bases)

    def resolve(self, module: str, use: str) -> list[Name]:
        """The definitions that a name, a dotted name or an address means in a module."""
        key = module, use
        if key not in self._resolved:
            # Modules that import each other in a circle find nothing on the way round.
            self._resolved[key] = []
            self._resolved[key] = list(dict.fromkeys(self._meant(module, use)))
        return self._resolved[key]

    def _meant(self, module: str, use: str) -> Iterator[Name]:
        if ":" in use:
            target, _, name = use.partition(":")
            yield from self._member(target, name) if self.module(target) else ()
            return
        head, _, rest = use.partition(".")
        code = self.module(module)
        if code is None:
            return
        is_known = head in code.definitions
        if is_known:
            yield Name(module, head)
        bindings = self._bindings(module, code)
        for target in bindings.get(head, ()):
            is_known = True
            yield from self._of(target, rest)
        if not is_known:
            for target in bindings.get(_EVERYTHING, ()):
                if isinstance(target, Name):
                    yield from self._member(target.module, head)

    def _of(self, target: Name | str, rest: str) -> list[Name]:
        """What ``rest`` means within a symbol or a module that a name is bound to."""
        return self._member(*target) if isinstance(target, Name) else self._inside(target, rest)

    def _inside(self, module: str, rest: str) -> list[Name]:
        head, _, more = rest.partition(".")
        if head and self.module(f"{module}.{head}") is not None:
            return self._inside(f"{module}.{head}", more)
        if self.module(module) is None:
            return [Name(module, head or _EVERYTHING)]
        return self._member(module, head) if head else [Name(module, _EVERYTHING)]

    def _member(self, module: str, symbol: str) -> list[Name]:
        code = self.module(module)
        if code is None or symbol == _EVERYTHING:
            return [Name(module, symbol)]
        names = self.resolve(module, symbol)
        # A name that a module makes up when it is asked for can be any of its own.
        return names or ([Name(module, _EVERYTHING)] if "__getattr__" in code.definitions else [])

    def _bindings(self, module: str, code: ModuleCode) -> dict[str, list[Name | str]]:
        """Name -> a symbol of a module, or a module."""
        if module not in self._bound:
            bound: dict[str, list[Name | str]] = {}
            for imported in code.imports:
                full = self._absolute(module, imported.module, imported.level)
                inner = f"{full}.{imported.symbol}"
                target: Name | str = full
                if imported.symbol:
                    target = inner if self.module(inner) is not None else Name(full, imported.symbol)
                targets = bound.setdefault(imported.bound, [])
                if target not in targets:
                    targets.append(target)
            self._bound[module] = bound
        return self._bound[module]

    def _absolute(self, module: str, name: str, level: int) -> str:
        if level == 0:
            return name
        path = self._sources.path_of(module)
        parts = module.split(".")
        package = parts if path is not None and path.name == "__init__.py" else parts[:-1]
        base = package[: len(package) - (level - 1)]
        return ".".join([*base, name] if name else base)


def _packages_of(module: str) -> Iterator[str]:
    """The packages that are imported before a module."""
    parts = module.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))

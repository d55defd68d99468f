"""Where the text of a module comes from: this interpreter's import paths, or a folder that keeps another tree."""

import sys
import sysconfig
from collections.abc import Collection, Sequence
from functools import cached_property
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Protocol

_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")
MAIN = "__main__"


def main_file() -> Path | None:
    """The script of Python that this process was started with; None for the name of a module, or a command."""
    main = sys.modules[MAIN]
    file = getattr(main, "__file__", None)
    is_script = bool(file) and getattr(main, "__spec__", None) is None
    # The command ``labtrail`` is a script, too, of the name of a package.
    return Path(file).resolve() if is_script and str(file).endswith(".py") else None


class Sources(Protocol):
    """The code of a lab and of labtrail; installed packages are not part of it."""

    def path_of(self, module: str) -> Path | None:
        """The file of a module or of a package's ``__init__``; None if it is not part of this code."""
        ...


class _Tree:
    """Modules below some folders, looked for name by name."""

    def __init__(self) -> None:
        self._known: dict[str, Path | None] = {}
        self._tops: dict[str, Sequence[Path]] = {}

    def path_of(self, module: str) -> Path | None:
        if module not in self._known:
            self._known[module] = self._find(module)
        return self._known[module]

    def _find(self, module: str) -> Path | None:
        top, *inner = module.split(".")
        if top not in self._tops:
            self._tops[top] = self._places(top)
        for place in self._tops[top]:
            path = place.joinpath(*inner)
            for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
                if file.is_file():
                    return file
        return None

    def _places(self, top: str) -> Sequence[Path]:
        """Folders of a package, or the path of a module without its suffix."""
        raise NotImplementedError


class ImportPaths(_Tree):
    """What this process would import, but for the standard library and installed packages.

    Args:
        ours: packages that count although they are installed: labtrail, and those that hold the task.
    """

    def __init__(self, ours: Collection[str] = ()) -> None:
        super().__init__()
        self._ours = {"labtrail", *ours}

    def place_of(self, top: str) -> Path | None:
        """The folder of a package, or the file of a module, that is part of this code."""
        for place in self._places(top):
            for path in (place, place.with_name(f"{place.name}.py")):
                if path.is_dir() or (path.suffix == ".py" and path.is_file()):
                    return path
        return None

    def _places(self, top: str) -> Sequence[Path]:
        script = main_file()
        if script is not None and script.stem == top:
            return [script.with_suffix("")]
        if top in sys.builtin_module_names or top in sys.stdlib_module_names:
            return ()
        spec = PathFinder.find_spec(top)
        if spec is None:
            return ()
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        places = folders or ([Path(spec.origin).with_suffix("")] if spec.origin else [])
        return [place for place in places if top in self._ours or not self._is_installed(place)]

    def _is_installed(self, place: Path) -> bool:
        return any(place.resolve().is_relative_to(folder) for folder in self._installed)

    @cached_property
    def _installed(self) -> Sequence[Path]:
        return [Path(sysconfig.get_path(name)).resolve() for name in _INSTALLED]


class Folder(_Tree):
    """A tree that is kept somewhere: each package below one of its roots.

    Args:
        roots: folders that would stand on the import path.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        super().__init__()
        self._roots = roots

    def _places(self, top: str) -> Sequence[Path]:
        return [root / top for root in self._roots]

"""Functions named by ``package.module:name``: a task can be described, and a typo answered, before torch is loaded.

Why: docs/decisions/041-one-lazy-face.md
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from labtrail.errors import ConfigError


@cache
def load(address: str) -> Any:
    """What an address names.

    Args:
        address: ``package.module:name``.

    Raises:
        ConfigError: it is no such address, or the module has nothing of that name.
        ImportError: the module, or something that it imports, is not there.
    """
    module, separator, name = address.partition(":")
    if not (module and separator and name):
        raise ConfigError([f"{address!r}: expected package.module:name"])
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise ConfigError([f"{address}: module {module} has no {name}"]) from None


class _Lazy:
    """A function that is imported when it is first called."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return load(self.address)(*arguments, **named)

    def __repr__(self) -> str:
        return f"lazy({self.address!r})"


def lazy(address: str) -> Callable[..., Any]:
    """The function of this address (``package.module:name``), imported when it is first called."""
    return _Lazy(address)

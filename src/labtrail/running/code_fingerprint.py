"""A digest of the code that makes something, for the name of what it makes and leaves behind."""

from collections.abc import Callable
from functools import cache
from typing import Any

from labtrail.running.provenance.code import code_of, name_of
from labtrail.store import lab


@cache
def code_fingerprint(*functions: Callable[..., Any]) -> str:
    """Digest of the definitions that functions reach, 16 hexadecimal digits.

    Belongs to the name of generated data and of caches, beside a fingerprint of their arguments: otherwise whoever
    edits such a function goes on with what the earlier one has made.

    Args:
        functions: that make it.
    """
    named = "-".join(f"{name.module}.{name.name}" for name in map(name_of, functions))
    return code_of(functions, [], lab.state_folder() / "cache" / f"made-{named}.json").digest

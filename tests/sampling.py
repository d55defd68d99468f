"""What of many examples the default tier tries while a person waits; ``make prove`` tries all."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest
from hypothesis import settings

PROVE = "prove"
_TIMES_MORE = 10


def examples(count: int) -> settings:
    """Settings of a test that is marked ``sampled``: so many examples, and ten times as many under ``make prove``."""
    return settings(max_examples=count * (_TIMES_MORE if settings.get_current_profile_name() == PROVE else 1))


def in_prove_but(kept: Collection[str], names: Iterable[str]) -> list[Any]:
    """Parameters of a test of many of a kind: these few in the default tier, all others in ``make prove``."""
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]

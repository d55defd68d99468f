"""Randomness is derived: every epoch starts from generators seeded by where it stands.

Their states are saved as well, for what draws across epochs.
"""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def reseed(*place: int) -> None:
    """Seeds torch, NumPy and Python from integers such as (seed, epoch, rank).

    A run that resumes at epoch 7 then draws exactly what an uninterrupted one draws there.
    """
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    np.random.seed(int.from_bytes(digest[8:12], "little"))  # noqa: NPY002 libraries draw from it
    random.seed(digest[12:])


def generator_states() -> dict[str, Any]:
    """The states of all generators of this process, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 libraries draw from it
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Puts the generators back to where ``generator_states`` found them."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 libraries draw from it
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))

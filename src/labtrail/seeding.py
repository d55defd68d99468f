"""Randomness is derived, not saved: every epoch starts from generators seeded by where it stands."""

import hashlib
import random

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

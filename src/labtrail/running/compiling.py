"""torch.compile where it can be had: an option that makes runs faster, never one that stops them."""

import logging
import os
import shutil

from torch import nn

_log = logging.getLogger("labtrail")

_COMPILERS = ("g++", "clang++", "c++", "cl")


def compile_in_place(module: nn.Module) -> None:
    """Lets calls of the module go through ``torch.compile``; its parameters stay where they are.

    Where no C++ compiler is found, which torch needs on every device, a line says so and nothing is changed.
    """
    named = os.environ.get("CXX")
    if any(shutil.which(name) for name in ([named] if named else _COMPILERS)):
        module.compile()
    else:
        _log.warning("compile: no C++ compiler (%s) on this machine; going on without", named or ", ".join(_COMPILERS))

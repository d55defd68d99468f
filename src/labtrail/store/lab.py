"""The lab: the folder in which all is run and whose store is used, wherever below it somebody stands.

Why: docs/decisions/044-work-in-the-labs-folder.md
"""

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from labtrail.errors import ConfigError

_PROJECT_FILE = "pyproject.toml"


def lab_folder() -> Path | None:
    """The nearest folder from here upwards whose pyproject.toml has a table ``[tool.labtrail]``; None outside a lab."""
    return _lab_above(Path.cwd())


@lru_cache(maxsize=64)
def _lab_above(folder: Path) -> Path | None:
    return next((path for path in (folder, *folder.parents) if lab_settings(path) is not None), None)


def lab_settings(folder: Path) -> dict[str, Any] | None:
    """The table ``[tool.labtrail]`` of a folder's pyproject.toml; None if there is none.

    Raises:
        ConfigError: the file is not valid TOML.
    """
    path = folder / _PROJECT_FILE
    if not path.is_file():
        return None
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("labtrail")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid TOML: {error}"]) from None


def working_folder() -> Path:
    """Where configs, data and store are looked for: the lab's folder, or the current one outside a lab."""
    return lab_folder() or Path.cwd()


def state_folder() -> Path:
    """Folder of locks and of work in progress, beside the store; not part of any result."""
    return working_folder() / ".labtrail"


def enter() -> None:
    """Makes the lab's folder the current one, so that a start from a subfolder is the same work in the same store."""
    os.chdir(working_folder())

"""Fixtures that many tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.workspace import REAL_DATA, Workspace

# Wall time says nothing on a shared machine; the same examples on every run make a failure repeatable.
settings.register_profile("labtrail", deadline=None, derandomize=True)
settings.load_profile("labtrail")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh working folder with the projects, a tiny config and no store."""
    return Workspace(tmp_path)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, or a skip that says how to name it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; name the folder with LABTRAIL_REAL_DATA")
    return REAL_DATA

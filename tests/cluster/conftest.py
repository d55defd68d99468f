"""Fixtures of schedulers and servers; a test is skipped where they are not installed, and says so."""

from collections.abc import Generator

import pytest

from tests.cluster.private_slurm import PrivateSlurm, missing


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Generator[PrivateSlurm]:
    """A Slurm of one node with four CPUs."""
    if absent := missing():
        pytest.skip(f"{', '.join(absent)} not installed; apt-get install --no-install-recommends slurm-wlm munge")
    found = PrivateSlurm(tmp_path_factory.mktemp("slurm"))
    try:
        found.start()
        yield found
    finally:
        found.stop()

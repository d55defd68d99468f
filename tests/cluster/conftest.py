"""Fixtures of schedulers and servers; a test is skipped where they are not installed, and says so."""

from collections.abc import Generator

import pytest

from tests.cluster import private_postgres
from tests.cluster.private_postgres import PrivatePostgres
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


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[PrivatePostgres]:
    """A PostgreSQL with an empty database."""
    if private_postgres.missing():
        pytest.skip("PostgreSQL not installed; apt-get install --no-install-recommends postgresql")
    found = PrivatePostgres(tmp_path_factory.mktemp("postgres"))
    found.start()
    try:
        yield found
    finally:
        found.stop()

"""Fixtures that many tests share, and the CPU seconds that each test took."""

import gc
import os
import resource
import sqlite3
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from hypothesis import settings
from mlflow.store.db import utils as mlflow_database
from sqlalchemy import Engine, create_engine

from tests.sampling import PROVE
from tests.workspace import REAL_DATA, Workspace, preloaded

# Wall time says nothing on a shared machine; the same examples on every run make a failure repeatable.
settings.register_profile("labtrail", deadline=None, derandomize=True)
settings.register_profile(PROVE, settings.get_profile("labtrail"))
settings.load_profile("labtrail")

_CPU = "cpu_s"
_SHOWN = 20
# What a test of the default tier may take; longer ones are marked slow.
_MOST_CPU_S = 30.0


@pytest.fixture(scope="session", autouse=True)
def _tables_are_copied(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """MLflow makes the tables of a SQLite store by all its migrations, in seconds: in this process once.

    Commands in processes of their own make theirs by migrations, but for those in a workspace, which has a store.
    """
    migrate, template = mlflow_database._initialize_tables, tmp_path_factory.mktemp("tables") / "mlflow.db"

    def copy(engine: Engine) -> None:
        if engine.dialect.name != "sqlite":
            migrate(engine)
            return
        if not template.exists():
            migrate(create_engine(f"sqlite:///{template}"))
        raw = engine.raw_connection()
        with closing(sqlite3.connect(template)) as source, closing(raw):
            assert isinstance(raw.driver_connection, sqlite3.Connection)
            source.backup(raw.driver_connection)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_database, "_initialize_tables", copy)
        yield


def pytest_collection_finish() -> None:
    """What is imported stays: garbage is not looked for in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A fresh working folder with the projects, a tiny config and an empty store."""
    return Workspace(tmp_path)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data, or a skip that says how to name it."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data at {REAL_DATA}; name the folder with LABTRAIL_REAL_DATA")
    return REAL_DATA


def _cpu_seconds() -> float:
    """CPU seconds of this process, of those that it has waited for, and of the commands that were forked for it."""
    spent = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    if preloaded.cache_info().currsize:
        forked = psutil.Process(preloaded().pid).cpu_times()
        spent += forked.children_user + forked.children_system
    return spent


@pytest.fixture(autouse=True)
def _measure(request: pytest.FixtureRequest) -> Generator[None]:
    before = _cpu_seconds()
    yield
    request.node.user_properties.append((_CPU, _cpu_seconds() - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tests that took most CPU seconds, and those that are too long for the default tier."""
    seconds = {
        report.nodeid: dict(report.user_properties)[_CPU]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown" and _CPU in dict(report.user_properties)
    }
    longest = [item for item in sorted(seconds.items(), key=lambda item: -item[1])[:_SHOWN] if item[1] > 1]
    if longest:
        total = sum(seconds.values())
        terminalreporter.section(f"tests that took most CPU time ({total:.0f} s in all {len(seconds)})")
        for name, spent in longest:
            mark = "  over the limit of the default tier" if spent > _MOST_CPU_S else ""
            terminalreporter.line(f"{spent:7.1f} s  {name}{mark}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Where services are said to be installed, a test of one is never skipped."""
    item.stash[_REQUIRED] = bool(os.environ.get("LABTRAIL_REQUIRE_SERVICES")) and any(
        item.get_closest_marker(name) for name in ("cluster", "browser")
    )


_REQUIRED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns a skip for want of a service into a failure where it must be there."""
    report = yield
    if report.skipped and item.stash.get(_REQUIRED, False) and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report

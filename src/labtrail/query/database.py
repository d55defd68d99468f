"""Runs read from MLflow's own database by SQL: read-only, many at once; for SQLite and PostgreSQL.

Gives what the public calls give, and much faster for many runs. It is used only with the versions of the database's
schema that it was tested with; ``tests/unit/test_readers.py`` compares both ways frame by frame.

Why: docs/decisions/031-public-calls-are-the-reference.md
"""

import logging
import sqlite3
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, bindparam, create_engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from labtrail.query.selection import MetricPoints, RunRow, Selection, joined, oldest_first, points_of, positions
from labtrail.store.address import SQLITE

_log = logging.getLogger("labtrail")

# Of MLflow 3.17.
KNOWN_SCHEMAS = frozenset({"dc11669786a5"})
_POSTGRES = ("postgresql://", "postgresql+psycopg://")
_PER_QUERY = 900
_PATIENCE_S = 60
# Few enough to stay in a processor's cache; more take twice as long.
_AT_A_TIME = 2_000

_RUNS = """
SELECT r.run_uuid, r.name, r.status, r.experiment_id, r.start_time, r.end_time
FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'
"""
_ROUND = """
AND EXISTS (SELECT 1 FROM tags t WHERE t.run_uuid = r.run_uuid
AND ((t.key = :own AND t.value = :campaign) OR t.key = :member))
"""


class Database:
    """A view of a store; each call sees the store as it is at one moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def runs(self, selection: Selection) -> list[RunRow]:
        """The active runs that meet the conditions on tags, params and ids, oldest first."""
        with self._reading() as connection:
            rows = list(_selected(connection, selection))
            ids = [row[0] for row in rows]
            tags = _values(connection, "tags", ids)
            params = _values(connection, "params", ids)
            metrics = _latest(connection, ids)
        return oldest_first(
            RunRow(run_id, name, status, str(experiment), started, ended, tags[run_id], params[run_id], metrics[run_id])
            for run_id, name, status, experiment, started, ended in rows
        )

    def points(self, run_ids: Sequence[str], metrics: Sequence[str]) -> MetricPoints:
        """All points of some metrics of some runs, in any order."""
        statement = text(
            "SELECT run_uuid, key, step, timestamp, CASE WHEN is_nan THEN NULL ELSE value END FROM metrics"
            " WHERE run_uuid IN :ids AND key IN :keys"
        ).bindparams(bindparam("ids", expanding=True), bindparam("keys", expanding=True))
        runs, names = positions(run_ids), positions(metrics)
        parts = []
        with self._reading() as connection:
            for ids in _parts(run_ids):
                for keys in _parts(metrics):
                    # As the driver gives them: SQLAlchemy's rows take twice as long as reading them.
                    cursor = connection.execute(statement, {"ids": ids, "keys": keys}).cursor
                    while cursor is not None and (rows := cursor.fetchmany(_AT_A_TIME)):
                        parts.append(points_of(rows, runs, names))
        return joined(parts)

    @contextmanager
    def _reading(self) -> Generator[Connection]:
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                # The driver begins a transaction only before it writes.
                connection.exec_driver_sql("BEGIN")
            yield connection


def open_database(uri: str) -> Database | None:
    """The store at an address; None where it must be read by the public calls.

    That is a server, another database, or a schema that is not known here, which is told.
    """
    if not uri.startswith((SQLITE, *_POSTGRES)):
        return None
    engine = _engine(uri)
    try:
        with engine.connect() as connection:
            version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except SQLAlchemyError:
        return None
    if version not in KNOWN_SCHEMAS:
        _log.info("the store's schema %s is not known here; MLflow's own calls read it, slower", version)
        return None
    return Database(engine)


def _engine(uri: str) -> Engine:
    if uri.startswith(SQLITE):
        path = f"file:{quote(uri.removeprefix(SQLITE))}?mode=ro"
        return create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(path, uri=True, timeout=_PATIENCE_S), poolclass=NullPool
        )
    return create_engine(
        uri, poolclass=NullPool, isolation_level="REPEATABLE READ", execution_options={"postgresql_readonly": True}
    )


def _selected(connection: Connection, selection: Selection) -> Iterator[Any]:
    conditions, values = "", {}
    for table, wanted in (("tags", selection.tags), ("params", selection.params)):
        for number, (key, value) in enumerate(wanted.items()):
            name, content = f"{table}_{number}_key", f"{table}_{number}_value"
            conditions += (
                f" AND EXISTS (SELECT 1 FROM {table} t WHERE t.run_uuid = r.run_uuid"  # noqa: S608 own names
                f" AND t.key = :{name} AND t.value = :{content})"
            )
            values |= {name: key, content: value}
    if rounds := selection.rounds():
        conditions += _ROUND
        (campaign_tag, name), (member, _) = rounds
        values |= {"own": campaign_tag, "campaign": name, "member": member}
    if selection.run_ids is None:
        yield from connection.execute(text(_RUNS + conditions), values)
        return
    statement = text(f"{_RUNS}{conditions} AND r.run_uuid IN :ids").bindparams(bindparam("ids", expanding=True))
    for ids in _parts(selection.run_ids):
        yield from connection.execute(statement, {**values, "ids": ids})


def _values(connection: Connection, table: str, run_ids: Sequence[str]) -> Mapping[str, dict[str, str]]:
    values: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
    for ids in _parts(run_ids):
        statement = text(f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN :ids")  # noqa: S608 own names
        for run_id, key, value in connection.execute(
            statement.bindparams(bindparam("ids", expanding=True)), {"ids": ids}
        ):
            values[run_id][key] = value
    return values


def _latest(connection: Connection, run_ids: Sequence[str]) -> Mapping[str, dict[str, float]]:
    latest: dict[str, dict[str, float]] = {run_id: {} for run_id in run_ids}
    statement = text("SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN :ids")
    for ids in _parts(run_ids):
        rows = connection.execute(statement.bindparams(bindparam("ids", expanding=True)), {"ids": ids})
        for run_id, key, value, is_nan in rows:
            latest[run_id][key] = float("nan") if is_nan else value
    return latest


def _parts(items: Sequence[str]) -> Iterator[list[str]]:
    """Databases take a limited number of values in one statement."""
    for start in range(0, len(items), _PER_QUERY):
        yield list(items[start : start + _PER_QUERY])

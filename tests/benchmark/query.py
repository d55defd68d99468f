"""Reading many runs: frames, histories and a report, on SQLite and on PostgreSQL, beside MLflow's own calls.

Times are wall seconds: a database works in a process of its own. The runs are invented.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from labtrail.query.query import Query
from labtrail.store import connection, contract
from tests.benchmark.timing import Row
from tests.cluster import private_postgres
from tests.cluster.private_postgres import PrivatePostgres

_RUNS, _PARAMS = 2000, 60
_CURVES, _EPOCHS = 250, 200
_METRICS = tuple(f"train/metric_{number}" for number in range(6))
_REPORTED = 300
_SHOWN = ("train/loss", "validation/loss", "validation/accuracy", "test/accuracy")
_RUNS_S, _HISTORY_S, _TIMES, _REPORT_S, _REPORT_GIB = 1.0, 2.0, 20.0, 60.0, 1.0
_REPEATS = 5
_SAMPLE = 25
_REPOSITORY = Path(__file__).resolve().parents[2]
_REPORT = """
import time
from labtrail.running.provenance.facts import peak_memory_mib
from labtrail.report.build import build
from labtrail.report.config import ReportConfig
began = time.perf_counter()
made = build(ReportConfig(campaign="reported"))
assert made.metrics["report/runs"] == 300
print(time.perf_counter() - began, peak_memory_mib() / 2**10)
"""


def rows() -> Iterator[Row]:
    """The same on both kinds of database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield from _on("SQLite", f"sqlite:///{folder / 'mlflow.db'}", folder)
        if private_postgres.missing():
            return
        postgres = PrivatePostgres(folder / "postgres")
        stack.callback(postgres.stop)
        postgres.start()
        yield from _on("PostgreSQL", postgres.url, folder)


def _on(name: str, uri: str, folder: Path) -> Iterator[Row]:
    client = MlflowClient(uri)
    _fill(client, uri, folder)
    frame, own = _timed(lambda: Query("swept", client=client).runs())
    assert frame.shape[0] == _RUNS
    mlflow.set_tracking_uri(uri)
    _, theirs = _timed(lambda: mlflow.search_runs(search_all_experiments=True, max_results=_RUNS), 1)
    yield Row(f"{name}: {_RUNS} runs x {_PARAMS} params, beside search_runs", own, theirs, theirs / own, 1.0)
    yield Row(f"{name}: the same, beside the promise", own, _RUNS_S, _RUNS_S / own, 1.0)
    curves, own = _timed(lambda: Query("curves", client=client).history(_METRICS))
    assert len(curves) == _CURVES * _EPOCHS * len(_METRICS)
    some = curves["run_id"].unique()[:_SAMPLE]
    _, part = _timed(lambda: [client.get_metric_history(one, key) for one in some for key in _METRICS], 1)
    theirs = part * _CURVES / _SAMPLE
    what = f"{name}: {_CURVES} x {_EPOCHS} x {len(_METRICS)} points, beside get_metric_history"
    # The promise was made for SQLite; PostgreSQL answers single calls faster.
    yield Row(what, own, theirs, theirs / own, _TIMES if name == "SQLite" else 1.0)
    yield Row(f"{name}: the same, beside the promise", own, _HISTORY_S, _HISTORY_S / own, 1.0)
    seconds, gib = _reported(uri)
    yield Row(
        f"{name}: report of {_REPORTED} runs, {gib:.2f} GiB, beside the promise",
        seconds,
        _REPORT_S,
        min(_REPORT_S / seconds, _REPORT_GIB / gib),
        1.0,
    )


def _timed(call: Callable[[], object], repeats: int = _REPEATS) -> tuple:
    """(what a call gives, its median wall seconds); once outside the clock if it is repeated."""
    if repeats > 1:
        call()
    seconds = []
    result = None
    for _ in range(repeats):
        began = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - began)
    return result, sorted(seconds)[repeats // 2]


def _fill(client: MlflowClient, uri: str, folder: Path) -> None:
    """Writes the tables at once: MLflow's own calls would take most of an hour."""
    experiment = int(connection.experiment_named(client, "bench", str(folder / "artifacts")))
    engine = create_engine(uri)
    with engine.begin() as transaction:

        def insert(table: str, rows: list[dict]) -> None:
            names = list(rows[0])
            marks = ", ".join(f":{name}" for name in names)
            transaction.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"), rows)

        for task, count, points in (("swept", _RUNS, 1), ("curves", _CURVES, _EPOCHS), ("reported", _REPORTED, 50)):
            _insert(insert, task, count, points, experiment)
    engine.dispose()


def _insert(insert: Callable[[str, list[dict]], None], task: str, count: int, points: int, experiment: int) -> None:
    names = (
        _METRICS if task != "reported" else ("train/loss", "validation/loss", "validation/accuracy", "test/accuracy")
    )
    ids = [f"{task.encode().hex():0<20}{number:012x}"[:32] for number in range(count)]
    start = 1_700_000_000_000
    insert(
        "runs",
        [
            {
                "run_uuid": one,
                "name": f"{task}-{number}",
                "status": "FINISHED",
                "start_time": start + number,
                "end_time": start + 60_000,
                "lifecycle_stage": "active",
                "artifact_uri": f"nowhere/{one}",
                "experiment_id": experiment,
                "source_type": "UNKNOWN",
                "source_name": "",
                "entry_point_name": "",
                "user_id": "",
                "source_version": "",
                "deleted_time": None,
            }
            for number, one in enumerate(ids)
        ],
    )
    tags = {
        contract.TASK: task,
        contract.CAMPAIGN: task,
        contract.ENDED: "FINISHED",
        contract.SCORE: "maximize validation/accuracy",
    }
    insert(
        "tags",
        [
            {"key": key, "value": value, "run_uuid": one}
            for number, one in enumerate(ids)
            for key, value in {**tags, contract.KEY: f"{task}{number}"}.items()
        ],
    )
    insert(
        "params",
        [
            {"key": f"cfg.key_{key}", "value": str(number // 3 % 25 if key == 1 else key), "run_uuid": one}
            for number, one in enumerate(ids)
            for key in range(1, _PARAMS)
        ],
    )
    insert("params", [{"key": "cfg.seed", "value": str(number % 3), "run_uuid": one} for number, one in enumerate(ids)])
    for begin in range(0, count, 50):
        metrics = [
            {
                "key": key,
                "value": (number % 25) / 30 + step / (6 * points),
                "timestamp": start + step,
                "run_uuid": one,
                "step": step,
                "is_nan": False,
            }
            for number, one in enumerate(ids[begin : begin + 50], begin)
            for key in names
            for step in range(points)
        ]
        insert("metrics", metrics)
        insert("latest_metrics", [metric for metric in metrics if metric["step"] == points - 1])


def _reported(uri: str) -> tuple[float, float]:
    """(wall seconds of a report, GiB of its process at most)."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(_REPOSITORY / "src")}
    done = subprocess.run([sys.executable, "-c", _REPORT], env=environment, check=True, capture_output=True, text=True)
    seconds, gib = map(float, done.stdout.split()[-2:])
    return seconds, gib

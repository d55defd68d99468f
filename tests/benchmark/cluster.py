"""What a campaign on a scheduler costs, and stores with eight writers.

On a private Slurm and PostgreSQL, where they are installed. Wall seconds: most is waiting for programs and servers.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path
from unittest.mock import patch

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from labtrail.config import load_config
from labtrail.jobs.queues import Batch
from labtrail.jobs.script import BatchConfig
from labtrail.jobs.slurm import Slurm
from labtrail.running.registry import task_named
from labtrail.store import connection, contract
from labtrail.sweeps.campaign import Campaign, run_command
from labtrail.sweeps.cells import CampaignConfig, Cell
from labtrail.sweeps.tick import tick
from tests.benchmark.timing import Row
from tests.cluster import private_postgres, private_slurm
from tests.cluster.private_postgres import PrivatePostgres
from tests.cluster.private_slurm import PrivateSlurm, free_port
from tests.cluster.writers import written_at_once
from tests.workspace import REPOSITORY, wait_until

_TICK_S, _SUBMISSION_S = 2.0, 0.5
_ROUND = """
name: bench
task: distill
groups:
  - {name: teachers, config: CONFIG, values: {train.epochs: 1}, grid: {seed: [0, 1]}}
  - name: students
    config: CONFIG
    values: {train.epochs: 1}
    reads: {teacher: teachers}
    grid: {method: [logit, attention, fitnets, rkd, factor], alpha: ALPHAS, seed: [0, 1]}
"""
_ALPHAS, _TEACHERS, _CELLS, _QUEUED = 31, 2, 312, 100


def rows() -> Iterator[Row]:
    """Ticks and submissions; then the slowest in a hundred calls of eight processes at once."""
    if private_slurm.missing():
        print("no Slurm here; apt-get install --no-install-recommends slurm-wlm munge")
    else:
        with ExitStack() as stack:
            yield from _ticks(stack)
    if private_postgres.missing():
        print("no PostgreSQL here; apt-get install --no-install-recommends postgresql")
    else:
        with ExitStack() as stack:
            yield from _writers(stack)


def _ticks(stack: ExitStack) -> Iterator[Row]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    slurm = PrivateSlurm(folder / "slurm")
    stack.callback(slurm.stop)
    slurm.start()
    # Nothing is to run: what is measured is the queue.
    slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    stack.enter_context(patch.dict(os.environ, slurm.variables))
    stack.enter_context(chdir(folder))
    config, alphas = REPOSITORY / "configs/distill/digits.yaml", json.dumps([one / 31 for one in range(_ALPHAS)])
    Path("round.yaml").write_text(_ROUND.replace("CONFIG", str(config)).replace("ALPHAS", alphas))
    batch = Batch(Slurm(), BatchConfig(template=REPOSITORY / "slurm/job.slurm", resources={"time": 5}))
    _finish(_CELLS - _QUEUED)
    began = time.perf_counter()
    assert len(tick(_campaign(), batch)) == _QUEUED
    submitted = (time.perf_counter() - began) / _QUEUED
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert tick(_campaign(), batch) == []
        seconds.append(time.perf_counter() - began)
    found = statistics.median(seconds)
    what = f"tick over {_CELLS} cells, {_QUEUED} in the queue, beside the promise"
    yield Row(what, found, _TICK_S, _TICK_S / found, 1.0)
    yield Row("submit a job, beside the promise", submitted, _SUBMISSION_S, _SUBMISSION_S / submitted, 1.0)


def _campaign() -> Campaign:
    known = task_named("distill")
    return Campaign(load_config(CampaignConfig, Path("round.yaml")), known, run_command(known))


def _finish(count: int) -> None:
    """Trains the teachers, and opens and finishes runs of students with as many params and points as a real one."""
    experiment = connection.initialise(["distill"])["distill"]
    campaign = _campaign()
    variables = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    for cell in campaign.cells[:_TEACHERS]:
        subprocess.run(campaign.job(cell).command, env=variables, check=True, capture_output=True)
    campaign.refresh()
    for cell in campaign.cells[_TEACHERS:count]:
        _finished(cell, experiment)


def _finished(cell: Cell, experiment: str) -> None:
    assert cell.key, cell.problem
    client = connection.current_store()
    tags = {contract.TASK: "distill", contract.KEY: cell.key, contract.ENDED: "FINISHED", contract.CAMPAIGN: "bench"}
    run_id = client.create_run(experiment).info.run_id
    params = [Param(f"cfg.{number}", str(number)) for number in range(60)]
    points = [Metric(f"train/{key}", step, step, step) for key in range(6) for step in range(3)]
    client.log_batch(run_id, points, params, [RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run_id)


def _writers(stack: ExitStack) -> Iterator[Row]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    postgres = PrivatePostgres(folder / "postgres")
    stack.callback(postgres.stop)
    postgres.start()
    sqlite = f"sqlite:///{folder / 'mlflow.db'}"
    reference = _p99(sqlite)
    for name, uri in (("PostgreSQL", postgres.url), ("labtrail server on PostgreSQL", _served(stack, postgres.url))):
        found = _p99(uri)
        yield Row(f"log_batch, p99 of 8 writers: {name} beside SQLite", found, reference, reference / found, 0.0)


def _p99(uri: str) -> float:
    MlflowClient(uri).search_experiments(max_results=1)
    return float(np.quantile(written_at_once(uri), 0.99))


def _served(stack: ExitStack, uri: str) -> str:
    port = free_port()
    words = [sys.executable, "-m", "labtrail.console", "server", "--port", str(port)]
    process = subprocess.Popen(
        words, env={**os.environ, "MLFLOW_TRACKING_URI": uri}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    wait_until(lambda: private_slurm.answers(port))
    return f"http://127.0.0.1:{port}"

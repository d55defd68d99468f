"""Processes that write runs to one store at the same time, and how long each call took."""

import multiprocessing
import time

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

WRITERS, EPOCHS, METRICS = 8, 40, 6


def _write(uri: str, experiment_id: str, number: int) -> list[float]:
    """One run as a task writes it: params, then some metrics an epoch, then its end; seconds of each call."""
    client = MlflowClient(uri)
    run_id = client.create_run(experiment_id, run_name=f"writer-{number}").info.run_id
    seconds = []
    for epoch in range(EPOCHS):
        params = [Param(f"cfg.{key}", str(key)) for key in range(60)] if epoch == 0 else []
        points = [Metric(f"train/{key}", epoch + key / 7, epoch, epoch) for key in range(METRICS)]
        began = time.perf_counter()
        client.log_batch(run_id, points, params)
        seconds.append(time.perf_counter() - began)
    client.set_terminated(run_id)
    return seconds


def written_at_once(uri: str) -> np.ndarray:
    """Seconds of all calls of eight processes, (writers * epochs,), after a look that nothing is lost."""
    experiment_id = MlflowClient(uri).create_experiment(f"writers-{time.time_ns()}")
    with multiprocessing.get_context("spawn").Pool(WRITERS) as pool:
        found = pool.starmap(_write, [(uri, experiment_id, number) for number in range(WRITERS)], chunksize=1)
    _assert_nothing_lost(uri, experiment_id)
    return np.array(found).ravel()


def _assert_nothing_lost(uri: str, experiment_id: str) -> None:
    """Every run of the writers has all its points and params, and has ended."""
    client = MlflowClient(uri)
    runs = client.search_runs([experiment_id])
    assert len(runs) == WRITERS
    for run in runs:
        assert run.info.status == "FINISHED"
        assert len(run.data.params) == 60
        for key in range(METRICS):
            points = client.get_metric_history(run.info.run_id, f"train/{key}")
            assert [point.value for point in points] == [epoch + key / 7 for epoch in range(EPOCHS)]

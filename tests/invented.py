"""Invented runs: a store filled with results that nobody measured, for what only reads stores."""

import math
import random
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from labtrail.store import connection, contract

METHODS = ("none", "logit", "attention")
ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)


def fill(
    *,
    methods: Sequence[str] = METHODS,
    alphas: Sequence[float] = ALPHAS,
    seeds: int = 3,
    epochs: int = 12,
    failures: int = 1,
    campaign: str = "round",
    params: int = 0,
    task: str = "distill",
) -> list[str]:
    """Runs of a sweep in the current store, with curves, some of which did not finish; ids of the finished ones."""
    experiment = connection.initialise([task])[task]
    client = connection.current_store()
    draw = random.Random(0)
    ids = []
    for method in methods:
        for alpha in alphas if method != "none" else alphas[:1]:
            for seed in range(seeds):
                settings = {
                    "method": method,
                    "alpha": alpha,
                    "seed": seed,
                    "data.name": "digits",
                    "train.epochs": epochs,
                }
                settings |= {f"further.key_{number}": number for number in range(params)}
                peak = 0.9 + 0.06 * METHODS.index(method) * alpha * (1 - alpha) + draw.gauss(0, 0.004)
                ids.append(_run(client, experiment, task, campaign, settings, _curves(peak, epochs, draw)))
    for number in range(failures):
        settings = {"method": "logit", "alpha": 0.5, "seed": 100 + number}
        run_id = _run(client, experiment, task, campaign, settings, [], end="FAILED")
        client.set_tag(run_id, contract.STATUS_REASON, "FAILED: MetricError: metric train/loss: found nan")
    return ids


def _curves(peak: float, epochs: int, draw: random.Random) -> list[Metric]:
    points = []
    for step in range(epochs):
        share = 1 - math.exp(-3 * (step + 1) / epochs)
        accuracy = peak * share + draw.gauss(0, 0.003)
        values = {
            "train/loss": 2.3 * (1 - share),
            "validation/loss": 2.4 - 2.2 * share,
            "validation/accuracy": accuracy,
        }
        points += [Metric(name, value, 1000 * step, step) for name, value in values.items()]
    points.append(Metric("best/validation/accuracy", peak, 1000 * epochs, epochs - 1))
    return [*points, Metric("test/accuracy", peak - 0.01, 1000 * epochs, epochs)]


def _run(
    client: MlflowClient,
    experiment: str,
    task: str,
    campaign: str,
    settings: dict,
    points: list[Metric],
    end: str = "FINISHED",
) -> str:
    name = f"{settings['method']}-a{settings['alpha']}-s{settings['seed']}"
    start = 1_700_000_000_000 + 60_000 * settings["seed"]
    run_id = client.create_run(experiment, start_time=start, run_name=name).info.run_id
    tags = {
        contract.TASK: task,
        contract.CAMPAIGN: campaign,
        contract.KEY: f"key-{campaign}-{name}",
        contract.ENDED: end,
        contract.SCORE: "maximize validation/accuracy",
        contract.ATTEMPTS: "1",
        contract.DEVICE: "cpu (invented)",
        contract.GIT_COMMIT: "0123456789abcdef",
    }
    params = [Param(f"{contract.CONFIG_PREFIX}{key}", str(value)) for key, value in settings.items()]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
    for begin in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[begin : begin + 1000])
    client.set_terminated(run_id, end, end_time=start + 90_000)
    return run_id

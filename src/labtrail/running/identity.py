"""The identity of a piece of work: what makes two runs the same, and what a run says of itself.

Why: docs/decisions/005-processes-in-the-key.md
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from labtrail import contract
from labtrail.config import Config, ConfigT, fingerprint
from labtrail.record import DataSource
from labtrail.running.provenance import cluster_facts, device_name, git_tags
from labtrail.running.task import Task


@dataclass(frozen=True)
class Identity:
    """What a run is of.

    Attributes:
        task: name of the task and of its experiment.
        name: a short, telling run name.
        key: fingerprint of task, config, data and number of processes.
        config: the frozen config.
        sources: the data sets it reads.
        tags: what else is worth knowing (device, versions).
    """

    task: str
    name: str
    key: str
    config: Config
    sources: Sequence[DataSource]
    tags: Mapping[str, str]


def work_key(task: Task[ConfigT], config: ConfigT, sources: Sequence[DataSource], processes: int) -> str:
    """The identity of a piece of work: the same task, config, data and number of processes give the same results."""
    return fingerprint(task.name, config, [(source.context, source.digest) for source in sources], processes)


def identify(
    task: Task[ConfigT],
    config: ConfigT,
    sources: Sequence[DataSource],
    accelerator: Accelerator,
    further: Mapping[str, str],
) -> Identity:
    """What a run of this config is of, with the tags that every run carries.

    Args:
        task: whose config it is.
        config: resolved.
        sources: the data it reads.
        accelerator: tells processes and device.
        further: more tags.
    """
    key = work_key(task, config, sources, accelerator.num_processes)
    tags = {
        contract.PROCESSES: str(accelerator.num_processes),
        contract.DEVICE: device_name(accelerator),
        contract.TORCH: str(torch.__version__),
        **git_tags(),
        **cluster_facts(),
        **further,
    }
    if task.score is not None:
        tags[contract.SCORE] = f"{task.score.direction} {task.score.metric}"
    if campaign := os.environ.get(contract.CAMPAIGN_VARIABLE):
        tags[contract.CAMPAIGN] = campaign
    return Identity(task.name, task.run_name(config), key, config, sources, tags)

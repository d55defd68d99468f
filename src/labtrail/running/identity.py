"""What a run says of itself: whose work it is, under which name, on which device."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from labtrail.config import Config, ConfigT
from labtrail.record import DataSource
from labtrail.running.provenance.code import NO_CODE, CodeDigest
from labtrail.running.provenance.facts import cluster_facts, device_name
from labtrail.running.work import Work
from labtrail.store import contract


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
        code: what decides its numbers.
    """

    task: str
    name: str
    key: str
    config: Config
    sources: Sequence[DataSource]
    tags: Mapping[str, str]
    code: CodeDigest = NO_CODE


def identify(work: Work[ConfigT], accelerator: Accelerator, further: Mapping[str, str]) -> Identity:
    """What a run of this work is of, with the tags that every run carries.

    Args:
        work: task, config and data.
        accelerator: tells processes and device.
        further: more tags.
    """
    task = work.task
    tags = {
        contract.PROCESSES: str(accelerator.num_processes),
        contract.DEVICE: device_name(accelerator),
        contract.TORCH: str(torch.__version__),
        **cluster_facts(),
        **further,
    }
    if work.code.definitions:
        tags[contract.CODE] = work.code.digest
    if task.score is not None:
        tags[contract.SCORE] = f"{task.score.direction} {task.score.metric}"
    if campaign := os.environ.get(contract.CAMPAIGN_VARIABLE):
        tags[contract.CAMPAIGN] = campaign
    key = work.key(accelerator.num_processes)
    return Identity(task.name, task.run_name(work.config), key, work.config, work.sources, tags, work.code)

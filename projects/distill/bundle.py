"""The task distill-bundle: students that differ in method, alpha and loss only, under one teacher's forward pass.

Each has a run and a checkpoint of its own, equal to the bit to those of a run by itself.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import Accelerator
from pydantic import Field, model_validator

from labtrail import contract
from labtrail.config import Section
from labtrail.errors import LaunchError
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.launch import require_one_process
from labtrail.running.record import DataSource, Record
from labtrail.running.signals import Interrupted
from labtrail.running.task import Task
from projects.distill.config import ALONE, DistillConfig, LossConfig, Method
from projects.distill.teacher import resolve as resolve_student
from projects.distill.train import train_together

NAME = "distill-bundle"


class StudentConfig(Section):
    """One student of a bundle."""

    method: Method
    """as in a run by itself"""
    alpha: float = Field(default=0.5, ge=0, le=1)
    """as in a run by itself"""
    loss: LossConfig | None = None
    """as in a run by itself; empty: the bundle's"""


class BundleConfig(DistillConfig):
    """Students side by side: what they share are the keys of a distill config."""

    students: tuple[StudentConfig, ...] = Field(min_length=1)
    """what they have of their own"""

    @model_validator(mode="after")
    def _students_differ(self) -> "BundleConfig":
        # A baseline has no alpha, and a loss that is not given is the bundle's.
        own = [
            ("none" if one.method == "none" else (one.method, one.alpha), one.loss or self.loss)
            for one in self.students
        ]
        if len(set(own)) < len(own):
            raise ValueError("two students are the same")
        return self


def configs_of(config: BundleConfig) -> list[DistillConfig]:
    """The config of each student, as of a run by itself."""
    shared = {name: getattr(config, name) for name in DistillConfig.model_fields}
    own = [{"method": one.method, "alpha": one.alpha, "loss": one.loss or config.loss} for one in config.students]
    return [DistillConfig.model_validate(shared | one) for one in own]


def resolve(config: BundleConfig) -> BundleConfig:
    """The config with the teacher of all its students written out."""
    taught = next((one for one in configs_of(config) if one.method not in ALONE), None)
    if taught is None:
        return config
    found = resolve_student(taught)
    names = ("teacher", "teacher_version", "teacher_sha256")
    return config.model_copy(update={name: getattr(found, name) for name in names})


def make_task(student: Task[DistillConfig], sources: Callable[[DistillConfig], Sequence[DataSource]]) -> Task[Any]:
    """The bundle of a task.

    Args:
        student: the task that each member runs.
        sources: of a student; the bundle reads what its first taught student reads.
    """

    def bundle_sources(config: BundleConfig) -> Sequence[DataSource]:
        own = [resolve_student(one) for one in configs_of(config)]
        return sources(next((one for one in own if one.teacher), own[0]))

    def bundle(config: BundleConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:
        """A Record whenever a student ends an epoch, and a last one with the table of students."""
        from labtrail.running.members import Members

        require_one_process(accelerator, NAME)
        if config.compute.precision == "fp16" and len(config.students) > 1:
            raise LaunchError("compute.precision: fp16 has one loss scaler, which students would share; use bf16")
        configs = [resolve_student(one) for one in configs_of(config)]
        members = Members(student, configs, accelerator, {contract.PARENT: checkpoint.run_id})
        own = members.at_work
        step = 0
        try:
            for number, record in train_together(
                [one.config for one in own], accelerator, [one.checkpoint for one in own]
            ):
                members.take(number, record)
                if record.step == config.train.epochs:
                    members.finish(number)
                yield Record(step)
                step += 1
        except Interrupted as interruption:
            members.close("KILLED", str(interruption))
            raise
        except Exception as error:
            members.close("FAILED", f"{type(error).__name__}: {error}")
            raise
        finally:
            members.close("KILLED", "the bundle was left before its end")
        rows = [{"run_id": one.run.run_id, "name": one.identity.name, **one.metrics} for one in own]
        rows += [{"run_id": run_id, "name": "finished before"} for run_id in members.finished]
        yield Record(step, {}, {"tables/students.csv": pd.DataFrame(rows)})

    return Task(
        name=NAME,
        config=BundleConfig,
        function=bundle,
        default=Path("configs/distill-bundle/digits.yaml"),
        resolve=resolve,
        sources=bundle_sources,
        title=lambda config: f"{config.data.name}-bundle-of-{len(config.students)}-s{config.seed}",
        experiment="distill",
    )

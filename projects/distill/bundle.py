"""Students that differ in method, alpha and loss only, under one teacher's forward pass.

Each has a run and a checkpoint of its own, equal to the bit to those of a single run.
"""

from collections.abc import Generator, Sequence

import pandas as pd

import labtrail as lt
from labtrail.running.signals import Interrupted
from labtrail.store import contract
from projects.distill.config import ALONE, BundleConfig, configs_of
from projects.distill.teacher import resolve as resolve_student
from projects.distill.teacher import student_sources
from projects.distill.train import train_together


def resolve(config: BundleConfig) -> BundleConfig:
    """The config with the teacher of all its students written out."""
    taught = next((student for student in configs_of(config) if student.method not in ALONE), None)
    if taught is None:
        return config
    resolved = resolve_student(taught)
    names = ("teacher", "teacher_version", "teacher_sha256")
    return config.model_copy(update={name: getattr(resolved, name) for name in names})


def sources(config: BundleConfig) -> Sequence[lt.DataSource]:
    """What the first student with a teacher reads; the others read no more."""
    students = [resolve_student(student) for student in configs_of(config)]
    return student_sources(next((student for student in students if student.teacher), students[0]))


def bundle(config: BundleConfig, run: lt.Run) -> Generator[lt.Record]:
    """A Record whenever a student ends an epoch, and a last one with the table of students."""
    if config.compute.precision == "fp16" and len(config.students) > 1:
        raise lt.LaunchError("compute.precision: fp16 has one loss scaler, which students would share; use bf16")
    students = [resolve_student(student) for student in configs_of(config)]
    members = lt.Members(lt.task_named("distill"), students, run.accelerator, {contract.PARENT: run.id})
    sessions, step = members.at_work, 0
    try:
        for number, record in train_together(
            [session.config for session in sessions],
            [session.run for session in sessions],
            run.accelerator,
        ):
            members.log_record(number, record)
            if record.step == config.train.epochs:
                members.finish(number)
            yield lt.Record(step)
            step += 1
    except Interrupted as interruption:
        members.close("KILLED", str(interruption))
        raise
    except Exception as error:
        members.close("FAILED", f"{type(error).__name__}: {error}")
        raise
    finally:
        members.close("KILLED", "the bundle was left before its end")
    rows = [{"run_id": session.run_id, "name": session.identity.name, **session.metrics} for session in sessions]
    rows += [{"run_id": run_id, "name": "finished before"} for run_id in members.finished]
    yield lt.Record(step, {}, {"tables/students.csv": pd.DataFrame(rows)})

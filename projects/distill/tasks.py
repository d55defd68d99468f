"""The tasks of distillation: one student, students under one teacher, and the comparison of methods."""

from pathlib import Path

import labtrail as lt
from projects.distill.config import AnalysisConfig, BundleConfig, DistillConfig


def training_title(config: DistillConfig) -> str:
    """Data, method, alpha and seed: ``cifar10-rkd-a0.5-resnet20-s0``."""
    alpha = "" if config.method == "none" else f"-a{config.alpha:g}"
    name = "baseline" if config.method == "none" else config.method
    return f"{config.data.name}-{name}{alpha}-{config.model.name}-s{config.seed}"


def bundle_title(config: BundleConfig) -> str:
    """Data, students and seed: ``digits-bundle-of-3-s0``."""
    return f"{config.data.name}-bundle-of-{len(config.students)}-s{config.seed}"


def analysis_title(config: AnalysisConfig) -> str:
    """How many runs are compared: ``analysis-of-46``."""
    return f"analysis-of-{len(config.runs.split(','))}"


TRAINING = lt.Task(
    name="distill",
    config=DistillConfig,
    function=lt.lazy("projects.distill.train:train"),
    default=Path("configs/distill/digits.yaml"),
    score=lt.Score("validation/accuracy"),
    resolve=lt.lazy("projects.distill.teacher:resolve"),
    sources=lt.lazy("projects.distill.teacher:student_sources"),
    title=training_title,
    example=lt.lazy("projects.distill.example:example"),
    one_process=True,
)
BUNDLE = lt.Task(
    name="distill-bundle",
    config=BundleConfig,
    function=lt.lazy("projects.distill.bundle:bundle"),
    default=Path("configs/distill-bundle/digits.yaml"),
    resolve=lt.lazy("projects.distill.bundle:resolve"),
    sources=lt.lazy("projects.distill.bundle:sources"),
    title=bundle_title,
    experiment="distill",
    one_process=True,
)
ANALYSIS = lt.Task(
    name="distill-analysis",
    config=AnalysisConfig,
    function=lt.lazy("projects.distill.analysis:analyse"),
    default=Path("configs/distill-analysis/default.yaml"),
    resolve=lt.lazy("projects.distill.analysis:resolve"),
    sources=lt.lazy("projects.distill.analysis:sources"),
    title=analysis_title,
    experiment="distill",
    one_process=True,
)
TASKS = (TRAINING, BUNDLE, ANALYSIS)

"""The tasks of sensor fusion: data, training, missing sensors, and the comparison of fusions."""

from pathlib import Path

import labtrail as lt
from projects.pamap2.config import AnalysisConfig, Pamap2Config, PrepareConfig, RobustnessConfig


def training_title(config: Pamap2Config) -> str:
    """Fusion, protocol and seed: ``hybrid-loso-s0``; of a dedicated model also what it reads."""
    read = f"-{'+'.join(config.model.modalities)}" if config.model.dedicated else ""
    return f"{config.model.fusion}-{config.split.protocol}{read}-s{config.seed}"


def prepare_title(config: PrepareConfig) -> str:
    """Where the recordings come from: ``prepare-synthetic``."""
    return f"prepare-{Path(config.source).name.split('.')[0][:40]}"


def robustness_title(config: RobustnessConfig) -> str:
    """The run that is judged: ``robustness-1a2b3c4d``."""
    return f"robustness-{config.run[:8]}"


def analysis_title(config: AnalysisConfig) -> str:
    """How many runs are compared: ``analysis-of-9``."""
    return f"analysis-of-{len(config.runs.split(','))}"


TRAINING = lt.Task(
    name="pamap2",
    config=Pamap2Config,
    function=lt.lazy("projects.pamap2.train:train"),
    default=Path("configs/pamap2/synthetic.yaml"),
    sources=lt.lazy("projects.pamap2.sources:sources"),
    title=training_title,
    example=lt.lazy("projects.pamap2.example:example"),
    one_process=True,
)
PREPARE = lt.Task(
    name="pamap2-prepare",
    config=PrepareConfig,
    function=lt.lazy("projects.pamap2.prepare:prepare"),
    default=Path("configs/pamap2-prepare/synthetic.yaml"),
    sources=lt.lazy("projects.pamap2.prepare:sources"),
    missing=lt.lazy("projects.pamap2.prepare:missing"),
    title=prepare_title,
    experiment="pamap2",
    one_process=True,
)
ROBUSTNESS = lt.Task(
    name="pamap2-robustness",
    config=RobustnessConfig,
    function=lt.lazy("projects.pamap2.robustness:evaluate"),
    default=Path("configs/pamap2-robustness/default.yaml"),
    resolve=lt.lazy("projects.pamap2.robustness:resolve"),
    sources=lt.lazy("projects.pamap2.robustness:sources"),
    title=robustness_title,
    experiment="pamap2",
    one_process=True,
)
ANALYSIS = lt.Task(
    name="pamap2-analysis",
    config=AnalysisConfig,
    function=lt.lazy("projects.pamap2.analysis:analyse"),
    default=Path("configs/pamap2-analysis/default.yaml"),
    resolve=lt.lazy("projects.pamap2.analysis:resolve"),
    sources=lt.lazy("projects.pamap2.analysis:sources"),
    title=analysis_title,
    experiment="pamap2",
    one_process=True,
)
TASKS = (TRAINING, PREPARE, ROBUSTNESS, ANALYSIS)

"""The tasks of sign recognition: training, attention of every head, and what the heads look at."""

from pathlib import Path

import labtrail as lt
from projects.spoter.config import AnalysisConfig, AttentionConfig, SpoterConfig


def training_title(config: SpoterConfig) -> str:
    """Data, optimizer and seed: ``wlasl50-adamw-s1``."""
    data = Path(config.data.train).parent.name if config.data.train.endswith((".csv", ".gz")) else config.data.train
    return f"{data}-{config.train.optimizer}-s{config.seed}"


def attention_title(config: AttentionConfig) -> str:
    """Split and training run: ``attention-test-1a2b3c4d``."""
    return f"attention-{config.split}-{config.run[:8]}"


def analysis_title(config: AnalysisConfig) -> str:
    """The run that is analysed: ``analysis-1a2b3c4d``."""
    return f"analysis-{config.run[:8]}"


TRAINING = lt.Task(
    name="spoter",
    config=SpoterConfig,
    function=lt.lazy("projects.spoter.train:train"),
    default=Path("configs/spoter/synthetic.yaml"),
    score=lt.Score("validation/accuracy"),
    sources=lt.lazy("projects.spoter.data:sources"),
    title=training_title,
    example=lt.lazy("projects.spoter.example:example"),
)
ATTENTION = lt.Task(
    name="spoter-attention",
    config=AttentionConfig,
    function=lt.lazy("projects.spoter.attention:extract"),
    default=Path("configs/spoter-attention/default.yaml"),
    resolve=lt.lazy("projects.spoter.attention:resolve"),
    sources=lt.lazy("projects.spoter.attention:sources"),
    title=attention_title,
    experiment="spoter",
    one_process=True,
)
ANALYSIS = lt.Task(
    name="spoter-analysis",
    config=AnalysisConfig,
    function=lt.lazy("projects.spoter.analysis:analyse"),
    default=Path("configs/spoter-analysis/default.yaml"),
    resolve=lt.lazy("projects.spoter.interpret.study:resolve"),
    sources=lt.lazy("projects.spoter.analysis:sources"),
    title=analysis_title,
    experiment="spoter",
    one_process=True,
)
TASKS = (TRAINING, ATTENTION, ANALYSIS)

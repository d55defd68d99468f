"""The task report: one page from many runs, as artifacts of a run of its own."""

from pathlib import Path

from labtrail.report.config import ReportConfig
from labtrail.running.lazy import lazy
from labtrail.running.task import Task


def title(config: ReportConfig) -> str:
    """What is reported: ``report-digits_alpha``."""
    return f"report-{config.campaign or config.task}"


TASK = Task(
    name="report",
    config=ReportConfig,
    function=lazy("labtrail.report.record:report"),
    default=Path("configs/report/default.yaml"),
    sources=lazy("labtrail.report.record:sources"),
    title=title,
    one_process=True,
)

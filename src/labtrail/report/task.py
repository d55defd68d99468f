"""The task report: one page from many runs, as artifacts of a run of its own."""

from collections.abc import Generator, Sequence
from pathlib import Path

from accelerate import Accelerator

from labtrail import contract
from labtrail.config import fingerprint
from labtrail.report.config import ReportConfig
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.launch import require_one_process
from labtrail.running.record import DataSource, Record
from labtrail.running.task import Task

NAME = "report"


def sources(config: ReportConfig) -> Sequence[DataSource]:
    """The runs as they are now: a report is made anew when one of them has changed."""
    from labtrail.report.gather import selected

    runs = selected(config).runs()
    told = runs[~runs[contract.TASK].isin([NAME])]
    digest = fingerprint(told[["run_id", "status", "started", "ended"]].astype(str).to_numpy().tolist())
    meant = config.campaign or config.task
    return [DataSource(meant, "runs", f"runs of {meant}", digest, {"runs": len(told)})]


def report(config: ReportConfig, accelerator: Accelerator, checkpoint: Checkpoint) -> Generator[Record]:  # noqa: ARG001
    """One Record with the page, its figures and its tables."""
    from labtrail.report.build import build

    require_one_process(accelerator, NAME)
    made = build(config)
    yield Record(0, dict(made.metrics), {"report.html": made.html, **made.tables, **made.figures})


TASK = Task(
    name=NAME,
    config=ReportConfig,
    function=report,
    default=Path("configs/report/default.yaml"),
    sources=sources,
    title=lambda config: f"report-{config.campaign or config.task}",
)

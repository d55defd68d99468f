"""The page of many runs as the one Record of a run."""

from collections.abc import Generator, Sequence

from labtrail.config import fingerprint
from labtrail.record import DataSource, Record
from labtrail.report.build import build
from labtrail.report.config import ReportConfig
from labtrail.report.gather import selected
from labtrail.running.run import Run
from labtrail.store import contract


def sources(config: ReportConfig) -> Sequence[DataSource]:
    """The runs as they are now: a report is made again when one of them has changed."""
    runs = selected(config).runs()
    reported = runs[runs[contract.TASK] != "report"]
    digest = fingerprint(reported[["run_id", "status", "started", "ended"]].astype(str).to_numpy().tolist())
    name = config.campaign or config.task
    return [DataSource(name, "runs", f"runs of {name}", digest, {"runs": len(reported)})]


def report(config: ReportConfig, run: Run) -> Generator[Record]:
    """One Record with the page, its figures and its tables."""
    del run
    made = build(config)
    yield Record(0, dict(made.metrics), {"report.html": made.html, **made.tables, **made.figures})

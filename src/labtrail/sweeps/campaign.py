"""Campaign: a written grid of cells; runs what is missing, those that others build on first, each once.

Why: docs/decisions/012-a-campaign-is-a-task.md
     docs/decisions/036-cells-of-two-rounds.md
"""

import itertools
import logging
import sys
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from labtrail.errors import CodeError, LabtrailError
from labtrail.files import sha256_of
from labtrail.jobs.local import Local
from labtrail.jobs.scheduler import Job, Scheduler, last_line
from labtrail.query.find import run_by_id
from labtrail.query.query import Query
from labtrail.record import DataSource, Record
from labtrail.running.code_policy import PresentCode, declare_same, difference, same_codes
from labtrail.running.run import Run
from labtrail.running.run_status import set_tags
from labtrail.running.task import Task
from labtrail.running.work import work_of
from labtrail.store import connection, contract
from labtrail.sweeps.cell_state import WorkRuns, runs_by_key
from labtrail.sweeps.cells import CampaignConfig, Cell, cells_of, load_cell, state_of, with_frozen_bases
from labtrail.sweeps.round_code import Answer, Pin

_log = logging.getLogger("labtrail")

_POLL_S = 0.5


class Campaign:
    """The cells of a campaign and what the store knows of them.

    Attributes:
        cells: in the order of the file.
        name: of the campaign.
        task_name, experiment: of the task that the cells run.
    """

    def __init__(self, config: CampaignConfig, task: Task[Any], command: Sequence[str], pin: Pin | None = None) -> None:
        """
        Args:
            config: the round.
            task: that the cells run.
            command: program and arguments that run the task, before its options.
            pin: the code that they run from; None: the lab's files, and runs of any code count.
        """
        self.cells = cells_of(config, task)
        self._config, self._task, self._command, self._pin = config, task, tuple(command), pin
        self._codes: Collection[str] = ()
        self.read_codes()
        self.name, self.task_name, self.experiment = config.name, task.name, task.experiment_name

    def title(self, cell: Cell) -> str:
        """A short, telling name of the run that a cell is or will be; it has to have a key."""
        return cell.title

    def read_codes(self) -> None:
        """Reads which codes are known to be the same as that of the round."""
        if self._pin is not None and self._pin.code.definitions:
            self._codes = same_codes(connection.current_store(), self._task.name, self._pin.code.digest)

    def judge_code(self, answer: Answer) -> None:
        """Asks once, when a round takes its code and before anything is started, what work of other code is worth.

        Args:
            answer: what a person has said.

        Raises:
            CodeError: other code has done or begun cells, and nobody has said whether that counts.
        """
        if self._pin is None or self._pin.recorded:
            return
        while others := self._by_other_code():
            cells = f"{len(others)} of the {len(self.cells)} cells of campaign {self.name}"
            if answer.again:
                _log.info("%s have been done or begun by other code; they are run beside that", cells)
                break
            client, present = connection.current_store(), PresentCode(self._task.name, self._pin.code)
            by_code = {run.tags[contract.CODE]: run for run in map(run_by_id, others.values())}
            if not answer.keep:
                raise CodeError(
                    f"{cells} have been done or begun by other code, run {next(iter(others.values()))} for instance: "
                    f"{difference(client, next(iter(by_code.values())), present)}; nothing was started: --keep counts "
                    "them as they are, --again runs them with the present code"
                )
            for run in by_code.values():
                declare_same(client, run, self._pin.code.digest)
            self.read_codes()
        self._pin.record()

    def _by_other_code(self) -> dict[str, str]:
        """Cell -> id of the run of other code that does or has done its work; those that can be told by now."""
        runs = self.read_runs()
        self.refresh(runs)
        return {cell.name: str(runs.by_other_code[cell.key]["run_id"]) for cell in self.cells if cell.again}

    def read_runs(self) -> WorkRuns:
        """The runs of the cells' task; those of the round's code count."""
        return runs_by_key(self._task.name, self._codes)

    def refresh(self, runs: WorkRuns | None = None) -> None:
        """Brings every cell that is not running or failed up to what the store holds.

        Args:
            runs: of the task; None: they are read.
        """
        runs = runs or self.read_runs()
        finished = runs.finished
        for cell in self.cells:
            lost = next((need for need in cell.needs.values() if need.state == "failed"), None)
            if lost is not None:
                cell.state, cell.problem = "failed", f"needs {lost.name}, which failed"
            if cell.state in ("waiting", "ready") and all(need.state == "done" for need in cell.needs.values()):
                self._identify(cell)
                cell.again = cell.key in runs.by_other_code and cell.key not in finished
                if cell.key in finished and not cell.gone:
                    cell.state, cell.run_id = "done", finished[cell.key]

    def note_members(self) -> None:
        """Marks the finished runs of other rounds that cells rest on, so that they are found under this one's name."""
        known = {run.run_id for run in Query(self._task.name).campaign(self._config.name).rows()}
        for cell in self.cells:
            if cell.state == "done" and cell.run_id not in known:
                set_tags(cell.run_id, {contract.member_of(self._config.name): cell.name})

    def _identify(self, cell: Cell) -> None:
        """Works out which work the cell is, once the runs that it names can be found."""
        if cell.key:
            return
        try:
            work = work_of(self._task, load_cell(self._task, cell))
            cell.title = self._task.run_name(work.config)
            cell.key = work.key(processes=1)
            cell.state = "ready"
            cell.gone = self._task.missing(work.config)
        except LabtrailError as error:
            cell.state, cell.problem = "failed", str(error)

    def job(self, cell: Cell) -> Job:
        """What runs a cell; its log lies beside the store."""
        log = state_of(self._config.name) / f"{cell.name}.log"
        variables = {contract.CAMPAIGN_VARIABLE: self._config.name, **(self._pin.variables if self._pin else {})}
        return Job(cell.name, (*self._command, *cell.options), variables, log)

    def ready(self) -> Iterator[Cell]:
        """Cells that may be started, in order."""
        return (cell for cell in self.cells if cell.state == "ready")

    def record_exit(self, name: str, status: int, runs: WorkRuns) -> Cell:
        """Notes the end of a cell's process; only a FINISHED run in the store, read since, makes it done."""
        (cell,) = (cell for cell in self.cells if cell.name == name)
        run_id = runs.finished.get(cell.key)
        if run_id is not None:
            cell.state, cell.run_id = "done", run_id
        else:
            last = last_line(self.job(cell).log)
            cell.state, cell.problem = "failed", f"exit status {status}: {last} ({self.job(cell).log})"
        return cell

    def counts(self) -> Counter[str]:
        """Number of cells in each state."""
        return Counter(cell.state for cell in self.cells)

    def table(self) -> pd.DataFrame:
        """A row per cell: group, name, state, run_id, problem, and its values."""
        rows = [
            {
                "group": cell.group.name,
                "cell": cell.name,
                "state": cell.state,
                "run_id": cell.run_id,
                "problem": cell.problem,
                **cell.values,
            }
            for cell in self.cells
        ]
        return pd.DataFrame(rows)


def run_campaign(campaign: Campaign, scheduler: Scheduler) -> Generator[Record]:
    """Runs what is missing; a Record whenever cells end, and a last one with the table of cells.

    Raises:
        LabtrailError: cells failed; the others have been run all the same.
    """
    campaign.refresh()
    total = len(campaign.cells)
    bar = tqdm(total=total, initial=campaign.counts()["done"], desc="campaign", unit="cell", disable=None)
    step = 0
    try:
        while True:
            for cell in itertools.islice(campaign.ready(), scheduler.free()):
                scheduler.submit(campaign.job(cell))
                cell.state = "running"
                _log.info("started %s", cell.name)
            if not campaign.counts()["running"]:
                break
            ended = scheduler.ended()
            if not ended:
                time.sleep(_POLL_S)
                continue
            runs = campaign.read_runs()
            for name, status in ended.items():
                cell = campaign.record_exit(name, status, runs)
                bar.update()
                _log.info("%s %s %s", cell.state, cell.name, cell.run_id or cell.problem)
            campaign.refresh(runs)
            yield Record(step, _metrics(campaign))
            step += 1
    finally:
        bar.close()
        scheduler.close()
    campaign.note_members()
    yield Record(step, _metrics(campaign), {"tables/cells.csv": campaign.table()})
    problems = [f"{cell.name}: {cell.problem}" for cell in campaign.cells if cell.state == "failed"]
    if problems:
        raise LabtrailError(f"{len(problems)} of {total} cells failed; the first: {problems[0]}")


def _metrics(campaign: Campaign) -> Mapping[str, float]:
    counts = campaign.counts()
    return {f"campaign/{state}": float(counts[state]) for state in ("done", "running", "ready", "waiting", "failed")}


def run_command(task: Task[Any]) -> tuple[str, ...]:
    """The command that runs a task of this lab with this Python, before its options."""
    return (sys.executable, "-m", "labtrail.console", "run", task.name)


def campaign_task(
    config: CampaignConfig, task: Task[Any], path: Path, workers: int, pin: Pin | None = None
) -> Task[CampaignConfig]:
    """A campaign on this machine as a task, which is claimed like any other.

    Args:
        config: the round.
        task: that its cells run.
        path: file of the round.
        workers: cells at once.
        pin: the code that they run from.
    """

    def run_cells(config: CampaignConfig, _run: Run) -> Generator[Record]:
        yield from run_campaign(Campaign(with_frozen_bases(config), task, run_command(task), pin), Local(workers))

    bases = list(dict.fromkeys(group.config for group in config.groups))
    return Task(
        name="campaign",
        config=CampaignConfig,
        function=run_cells,
        default=path,
        sources=lambda _config: [DataSource(base.name, "base", str(base), sha256_of(base)) for base in bases],
        title=lambda config: f"campaign-{config.name}",
        experiment=task.experiment_name,
        one_process=True,
    )

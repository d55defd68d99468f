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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, StringConstraints, model_validator
from tqdm import tqdm

from labtrail import contract
from labtrail.config import Config, Section, load_config, text_of
from labtrail.errors import CodeError, ConfigError, LabtrailError
from labtrail.files import sha256_of, write_atomically
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
from labtrail.store import connection, lab
from labtrail.sweeps.cell_state import State, WorkRuns, runs_by_key
from labtrail.sweeps.round_code import Answer, Pin

_log = logging.getLogger("labtrail")

_POLL_S = 0.5
_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Group(Section):
    """Cells of one kind: every combination of the grid's values."""

    name: _Name
    """what the group is called"""
    config: Path
    """config file that its cells start from"""
    values: dict[str, Any] = Field(default_factory=dict)
    """dotted key -> value, the same in every cell"""
    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """dotted key -> values; one cell for each combination"""
    reads: dict[str, str] = Field(default_factory=dict)
    """dotted key -> earlier group; the key becomes the id of its run with the same values of shared grid keys"""


class CampaignConfig(Config):
    """A round of runs."""

    name: _Name
    """tag labtrail.campaign of all its runs"""
    task: str
    """task that its cells run"""
    groups: tuple[Group, ...] = Field(min_length=1)
    """what is run; later groups may build on earlier ones"""

    @model_validator(mode="after")
    def _groups_are_in_order(self) -> "CampaignConfig":
        known: list[str] = []
        for group in self.groups:
            wrong = sorted(set(group.reads.values()) - set(known))
            if wrong:
                raise ValueError(f"group {group.name} reads {wrong[0]}, which is not an earlier group ({known})")
            if group.name in known:
                raise ValueError(f"group {group.name} is there twice")
            known.append(group.name)
        return self


@dataclass
class Cell:
    """One run of a campaign.

    Attributes:
        group, values: where it comes from, and its dotted keys.
        needs: dotted key -> the cell whose run it names; that has to be done before.
        state: what is known of it.
        key: identity of its work; empty while a run that it builds on is missing.
        run_id: of the run that did the work.
        problem: why it failed or cannot begin.
        gone: whether a result of it that lay outside its run is no longer there.
        job_id: of its job in a scheduler's queue.
        again: whether other code has done or begun its work, so that it runs beside that.
        title: name of its run, once its key is known.
    """

    group: Group
    values: dict[str, str]
    needs: dict[str, "Cell"] = field(default_factory=dict)
    state: State = "waiting"
    key: str = ""
    run_id: str = ""
    problem: str = ""
    gone: bool = False
    job_id: str = ""
    again: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """Unique in its campaign: ``students-method=logit,alpha=0.5``."""
        varied = ",".join(f"{key}={self.values[key]}" for key in self.group.grid)
        return f"{self.group.name}-{varied}" if varied else self.group.name

    @property
    def options(self) -> list[str]:
        """The command line's part that makes this cell."""
        values = [f"--{key}={value}" for key, value in self.settings.items()]
        return ["--config", str(self.group.config), *values, *(["--again"] if self.again else [])]

    @property
    def settings(self) -> dict[str, str]:
        """Dotted key -> value, the ids of the runs that it reads among them, once they are known."""
        return self.values | {key: cell.run_id for key, cell in self.needs.items() if cell.run_id}


def with_frozen_bases(config: CampaignConfig) -> CampaignConfig:
    """The same round with its base configs as they are now: a cell reads one when it begins, hours later perhaps."""
    groups = []
    for group in config.groups:
        content = group.config.read_bytes()
        digest = sha256_of(group.config)[:12]
        copy = state_of(config.name) / "configs" / f"{group.config.stem}-{digest}{group.config.suffix}"
        if not copy.is_file():
            write_atomically(copy, content)
        groups.append(group.model_copy(update={"config": copy}))
    return config.model_copy(update={"groups": tuple(groups)})


def cells_of(config: CampaignConfig, task: Task[Any]) -> list[Cell]:
    """All cells in the order of the file, each with those that it needs.

    Raises:
        ConfigError: a cell's config is not valid; names the cell.
    """
    cells: list[Cell] = []
    for group in config.groups:
        for combination in itertools.product(*group.grid.values()):
            values = {key: text_of(value) for key, value in group.values.items()}
            values |= {key: text_of(value) for key, value in zip(group.grid, combination, strict=True)}
            cell = Cell(group, values)
            cell.needs = {key: _the_one(cells, name, cell) for key, name in group.reads.items()}
            load_cell(task, cell)
            if cell.name in {other.name for other in cells}:
                raise ConfigError([f"{cell.name}: there twice; a grid's values and the names of groups have to differ"])
            cells.append(cell)
    return cells


def _the_one(earlier: Sequence[Cell], group: str, cell: Cell) -> Cell:
    """The cell of an earlier group that a cell reads."""
    agreeing = [candidate for candidate in earlier if candidate.group.name == group and _agree(candidate, cell)]
    if len(agreeing) != 1:
        raise ConfigError([f"{cell.name}: reads {group}, where {len(agreeing)} cells agree with it; expected one"])
    return agreeing[0]


def _agree(first: Cell, other: Cell) -> bool:
    """Whether two cells have the same values for the grid keys that both groups have."""
    shared = first.group.grid.keys() & other.group.grid.keys()
    return all(first.values[key] == other.values[key] for key in shared)


def load_cell(task: Task[Any], cell: Cell) -> Any:
    """The config of a cell, as far as the runs that it reads are known.

    Raises:
        ConfigError: it is not valid; names the cell.
    """
    try:
        return load_config(task.config, cell.group.config, list(cell.settings.items()))
    except ConfigError as error:
        raise ConfigError([f"{cell.name}: {problem}" for problem in error.problems]) from None


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


def state_of(name: str) -> Path:
    """Folder of a round's logs and of the code that it runs from."""
    return lab.state_folder() / "campaigns" / name


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

"""What a campaign is written as, and its cells: every combination of each group's values, those that others read first.

Why: docs/decisions/036-cells-of-two-rounds.md
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from labtrail.config import Config, Section, load_config, text_of
from labtrail.errors import ConfigError
from labtrail.files import sha256_of, write_atomically
from labtrail.running.task import Task
from labtrail.store import lab
from labtrail.sweeps.cell_state import State

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


def state_of(name: str) -> Path:
    """Folder of a round's logs and of the code that it runs from."""
    return lab.state_folder() / "campaigns" / name


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

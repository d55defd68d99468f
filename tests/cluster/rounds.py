"""Small rounds of distillation as campaigns on a scheduler, and what has to hold after them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from labtrail.config import load_config, load_json
from labtrail.jobs.script import BatchConfig
from labtrail.jobs.slurm import Slurm
from labtrail.running.registry import task_named
from labtrail.store import contract
from labtrail.sweeps.campaign import Campaign, run_command
from labtrail.sweeps.cells import CampaignConfig
from labtrail.sweeps.tick import Batch, refresh_from_queue, tick
from tests.cluster.private_slurm import PrivateSlurm
from tests.workspace import REPOSITORY, Workspace, wait_until

ANY = ("FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED")
QUICK = """
seed: 0
method: none
teacher_model: resnet8
data: {name: digits, validation: 0.4}
model: {name: resnet8, width: 4}
loss: {paraphraser_epochs: 1}
train: {epochs: EPOCHS, batch_size: 128, learning_rate: 0.05}
"""
TEACHERS = """
name: round
task: distill
groups:
  - {name: teachers, config: quick.yaml, grid: {seed: [0, 1]}}
"""
STUDENTS = """
  - name: students
    config: quick.yaml
    reads: {teacher: teachers}
    grid: {method: [logit], seed: [0, 1]}
"""


class Round:
    """A campaign of a workspace on a scheduler; this process's working folder becomes the workspace.

    Attributes:
        cells: how many it has.
    """

    def __init__(
        self,
        workspace: Workspace,
        slurm: PrivateSlurm,
        monkeypatch: pytest.MonkeyPatch,
        *,
        text: str = TEACHERS,
        epochs: int = 3,
    ) -> None:
        self.workspace, self.slurm = workspace, slurm
        workspace.variables |= slurm.variables
        workspace.variables["PATH"] = f"{Path(sys.executable).parent}:{slurm.variables['PATH']}"
        workspace.write("quick.yaml", QUICK.replace("EPOCHS", str(epochs)))
        workspace.write("round.yaml", text)
        workspace.write("slurm/job.slurm", (REPOSITORY / "slurm/job.slurm").read_text())
        monkeypatch.chdir(workspace.folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in slurm.variables.items():
            monkeypatch.setenv(name, value)
        self.configure()
        self.cells = len(self.campaign().cells)

    def configure(self, **values: object) -> None:
        """Writes the backend config."""
        setup = ["export PYTHONPATH=src:. OMP_NUM_THREADS=1 SLURM_CONF=" + self.slurm.variables["SLURM_CONF"]]
        config = {"template": "slurm/job.slurm", "resources": {"time": "5", "cpus-per-task": 1}, "setup": setup}
        self.workspace.write("backend.json", json.dumps(config | {"timeout_s": 5.0, "poll_s": 1.0} | values))

    def campaign(self) -> Campaign:
        known = task_named("distill")
        return Campaign(load_config(CampaignConfig, Path("round.yaml")), known, run_command(known))

    def batch(self) -> Batch:
        config = load_json(BatchConfig, Path("backend.json"))
        return Batch(Slurm(config.timeout_s), config)

    def tick(self, *, retry: bool = False) -> list[str]:
        """Names of the cells that a tick of this process submits."""
        return [cell.name for cell in tick(self.campaign(), self.batch(), retry=retry)]

    def states(self) -> dict[str, str]:
        """Name of each cell -> its state."""
        campaign = self.campaign()
        refresh_from_queue(campaign, self.batch())
        return {cell.name: cell.state for cell in campaign.cells}

    def command(self, *options: str) -> list[str]:
        """The tick as cron or a person starts it."""
        return [
            "python",
            "-m",
            "projects.campaign",
            "--config",
            "round.yaml",
            "--backend",
            "slurm",
            "--backend-config",
            "backend.json",
            *options,
        ]

    def called(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.workspace.run(*self.command(*options))

    def runs(self) -> pd.DataFrame:
        return self.workspace.query("distill", ANY).runs()

    def run_to_end(self, timeout: float = 240) -> None:
        """Ticks, as cron would, until all cells are done."""
        deadline = time.monotonic() + timeout
        while True:
            self.tick()
            states = self.states()
            if set(states.values()) == {"done"}:
                return
            assert time.monotonic() < deadline, f"{states}\n{self.logs()}"
            time.sleep(0.5)

    def wait_for_epochs(self, count: int, runs: int = 2) -> None:
        """Until so many runs have logged so many epochs."""

        def there() -> bool:
            query = self.workspace.query("distill", ("RUNNING",))
            history = query.history([name for name in query.metrics() if name == "train/loss"])
            return int(history.groupby("run_id")["step"].max().ge(count - 1).sum()) >= runs

        wait_until(there, 120)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.workspace.folder / "logs").rglob("*.log")))


def assert_whole(found: Round) -> None:
    """Every cell is FINISHED exactly once; students began after their teacher's end; no point is there twice."""
    runs = found.runs()
    assert len(runs) == found.cells, runs
    assert (runs["status"] == "FINISHED").all()
    assert runs[contract.KEY].is_unique
    assert (runs[contract.CAMPAIGN] == "round").all()
    teachers = runs[runs["cfg.method"] == "none"].set_index("run_id")
    client = found.workspace.client()
    for row in runs.to_dict("records"):
        points = client.get_metric_history(row["run_id"], "train/loss")
        assert [point.step for point in points] == list(range(int(row["cfg.train.epochs"])))
        if row["cfg.method"] != "none":
            assert points[0].timestamp > teachers.loc[row["cfg.teacher"], "ended"].timestamp() * 1000

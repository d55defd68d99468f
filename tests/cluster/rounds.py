"""Small rounds of distillation as campaigns on a scheduler, and what has to hold after them."""

import json
import sys
import time
from pathlib import Path

import pandas as pd

from labtrail import contract
from tests.cluster.private_slurm import PrivateSlurm
from tests.workspace import REPOSITORY, Workspace

ANY = ("FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED")
QUICK = """
seed: 0
method: none
teacher_model: resnet8
data: {name: digits, validation: 0.4}
model: {name: resnet8, width: 4}
loss: {paraphraser_epochs: 1}
train: {epochs: 3, batch_size: 128, learning_rate: 0.05}
"""
ROUND = """
name: round
task: distill
groups:
  - {name: teachers, config: quick.yaml, grid: {seed: [0, 1]}}
  - name: students
    config: quick.yaml
    reads: {teacher: teachers}
    grid: {method: [logit], seed: [0, 1]}
"""
CELLS = 4


class Round:
    """A campaign of a workspace on a scheduler."""

    def __init__(self, workspace: Workspace, slurm: PrivateSlurm, *, text: str = ROUND, epochs: int = 3) -> None:
        self.workspace, self.slurm = workspace, slurm
        workspace.variables |= slurm.variables
        workspace.variables["PATH"] = f"{Path(sys.executable).parent}:{slurm.variables['PATH']}"
        workspace.write("quick.yaml", QUICK.replace("epochs: 3", f"epochs: {epochs}"))
        workspace.write("round.yaml", text)
        workspace.write("slurm/job.slurm", (REPOSITORY / "slurm/job.slurm").read_text())
        self.configure()

    def configure(self, **values: object) -> None:
        setup = ["export PYTHONPATH=src:. OMP_NUM_THREADS=1 SLURM_CONF=" + self.slurm.variables["SLURM_CONF"]]
        config = {"template": "slurm/job.slurm", "resources": {"time": "5", "cpus-per-task": 1}, "setup": setup}
        self.workspace.write("backend.json", json.dumps(config | {"timeout_s": 5.0} | values))

    def words(self, *options: str) -> list[str]:
        return ["python", "-m", "projects.campaign", "--config", "round.yaml", "--backend", "slurm",
                "--backend-config", "backend.json", *options]  # fmt: skip

    def tick(self, *options: str):
        return self.workspace.run(*self.words(*options))

    def runs(self) -> pd.DataFrame:
        return self.workspace.query("distill", ANY).runs()

    def run_to_end(self, cells: int = CELLS, timeout: float = 240) -> None:
        """Ticks, as cron would, until all cells are done."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.tick()
            if f"{cells} cells: {cells} done" in done.stdout:
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.workspace.folder / "logs").rglob("*.log")))


def assert_whole(found: Round, cells: int = CELLS) -> None:
    """Every cell is FINISHED exactly once; every student began after its teacher had finished; points are single."""
    runs = found.runs()
    assert len(runs) == cells, runs
    assert (runs["status"] == "FINISHED").all()
    assert runs[contract.KEY].is_unique
    assert (runs[contract.CAMPAIGN] == "round").all()
    teachers = runs[runs["cfg.method"] == "none"].set_index("run_id")
    client = found.workspace.client()
    for student in runs[runs["cfg.method"] != "none"].to_dict("records"):
        first = client.get_metric_history(student["run_id"], "train/loss")[0].timestamp
        assert first > teachers.loc[student["cfg.teacher"], "ended"].timestamp() * 1000
    for run_id in runs["run_id"]:
        steps = [point.step for point in client.get_metric_history(run_id, "train/loss")]
        assert steps == sorted(set(steps))
        assert len(steps) == int(runs.loc[runs["run_id"] == run_id, "cfg.train.epochs"].item())

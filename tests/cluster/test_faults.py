"""A campaign under random faults: nothing lost, nothing twice, nothing corrupt, teachers before students."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping

import psutil
import pytest
import torch

from labtrail.jobs.queue import QueueError, SubmitError
from labtrail.store import contract
from tests.cluster.private_slurm import PrivateSlurm
from tests.cluster.rounds import Round, assert_whole
from tests.workspace import Workspace

FAULTS = int(os.environ.get("LABTRAIL_FAULTS", "200"))
SEED = int(os.environ.get("LABTRAIL_FAULT_SEED", "0"))
ROUND = """
name: round
task: distill
groups:
  - {name: teachers, config: quick.yaml, grid: {seed: [0, 1, 2]}}
  - name: students
    config: quick.yaml
    reads: {teacher: teachers}
    grid: {method: [logit, attention], alpha: [0.3, 0.7], seed: [0, 1, 2]}
"""


class Faults:
    """What can happen, drawn with a seed."""

    def __init__(self, found: Round, draw: random.Random) -> None:
        self._found, self._slurm, self._draw = found, found.slurm, draw
        self.kinds: Mapping[str, Callable[[], bool]] = {
            "kill -9 of a job": self._kill_job,
            "SIGTERM to a job": lambda: self._kill_job(signal.SIGTERM),
            "scancel": self._cancel,
            "controller killed and restarted": self._controller,
            "controller hung": self._hung,
            "jobs forgotten": lambda: self._controller(fresh=True),
            "node killed and restarted": self._node,
            "tick killed": self._tick,
            "two ticks at once": self._two_ticks,
        }

    def _jobs(self) -> list[psutil.Process]:
        found = []
        for job_process in self._slurm.job_processes():
            with contextlib.suppress(psutil.Error):
                if "labtrail.console" in job_process.cmdline():
                    found.append(job_process)
        return found

    def _kill_job(self, number: signal.Signals = signal.SIGKILL) -> bool:
        jobs = self._jobs()
        if jobs:
            with contextlib.suppress(psutil.Error):
                self._draw.choice(jobs).send_signal(number)
        return bool(jobs)

    def _cancel(self) -> bool:
        alive = [job for _, job, state in self._slurm.queue() if state in ("PENDING", "RUNNING")]
        if alive:
            self._slurm.command("scancel", self._draw.choice(alive))
        return bool(alive)

    def _controller(self, *, fresh: bool = False) -> bool:
        self._slurm.kill("slurmctld")
        self._slurm.start_controller(fresh=fresh)
        return True

    def _hung(self) -> bool:
        self._slurm.kill("slurmctld", signal.SIGSTOP)
        with contextlib.suppress(QueueError):
            self._found.tick()
        self._slurm.kill("slurmctld", signal.SIGCONT)
        return True

    def _node(self) -> bool:
        self._slurm.kill("slurmd")
        time.sleep(self._draw.uniform(0, 3))
        self._slurm.start_node()
        return True

    def _started(self) -> subprocess.Popen[bytes]:
        workspace = self._found.workspace
        return subprocess.Popen(
            workspace.command(*self._found.command()),
            cwd=workspace.folder,
            env=workspace.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _tick(self) -> bool:
        process = self._started()
        time.sleep(self._draw.uniform(2, 8))
        process.kill()
        process.wait()
        return True

    def _two_ticks(self) -> bool:
        for process in (self._started(), self._started()):
            process.wait(120)
        return True


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(3600)
def test_random_faults(workspace: Workspace, slurm: PrivateSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Round(workspace, slurm, monkeypatch, text=ROUND, epochs=400)
    found.configure(attempts=1000, timeout_s=3.0)
    draw, counts = random.Random(SEED), Counter[str]()
    faults = Faults(found, draw)
    while sum(counts.values()) < FAULTS:
        with contextlib.suppress(QueueError, SubmitError):
            found.tick()
        # The dear ones, which start processes, are drawn less often.
        kind = draw.choices(list(faults.kinds), weights=[6, 3, 4, 2, 1, 2, 2, 1, 1])[0]
        if faults.kinds[kind]():
            counts[kind] += 1
            print(f"{time.strftime('%T')} {sum(counts.values()):4} {kind}", flush=True)
        time.sleep(draw.uniform(0.2, 2))
    # Otherwise the last faults would have hit nothing.
    assert set(found.states().values()) != {"done"}
    found.run_to_end(1800)
    print(counts)
    assert_whole(found)
    for run_id in found.runs()["run_id"]:
        checkpoints = workspace.artifacts(run_id) / "checkpoints"
        best = torch.load(checkpoints / "best.pt", weights_only=True)
        assert all(torch.isfinite(value).all() for value in best["model_state_dict"].values())
    print(found.runs()[[contract.ATTEMPTS, contract.SUBMISSIONS]].astype(int).describe())

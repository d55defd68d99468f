"""Checkpoints are whole or absent, and what is damaged is noticed."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import memory as accelerate_memory

from labtrail.errors import CheckpointError
from labtrail.record import Record, Score
from labtrail.running.checkpoint import Checkpoint, load_portable
from tests.workspace import REPOSITORY


@pytest.fixture(scope="module")
def _accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def accelerator(_accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """Empty of what earlier tests prepared."""
    # Each call would look through everything that other tests have left, for seconds.
    monkeypatch.setattr(accelerate_memory, "gc", SimpleNamespace(collect=lambda: 0))
    _accelerator.free_memory()
    return _accelerator


class Loop:
    """A training loop in small."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        score: Score | None = None,
        upload: Callable[[Path], None] | None = None,
    ) -> None:
        torch.manual_seed(0)
        accelerator.free_memory()
        self.model, self.optimizer = accelerator.prepare(
            model := torch.nn.Linear(3, 3), torch.optim.AdamW(model.parameters(), lr=0.1)
        )
        self.accelerator = accelerator
        self.checkpoint = Checkpoint(folder, accelerator, score=score, config={"seed": 0}, upload=upload)
        self.progress = self.checkpoint.restore(self.model, self.optimizer, milestones=[2])

    def epoch(self, value: float = 0.5) -> dict[str, float]:
        loss = self.model(torch.ones(1, 3)).square().sum()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        record = Record(self.progress.epoch, {"validation/accuracy": value})
        self.progress.epoch += 1
        best = self.checkpoint.note_best(record)
        self.checkpoint.save(record)
        self.checkpoint.flush()
        return best

    @property
    def weights(self) -> torch.Tensor:
        return self.model.weight.detach().clone()


def test_restored_state_continues_as_if_nothing_happened(tmp_path: Path, accelerator: Accelerator) -> None:
    whole = Loop(tmp_path / "whole", accelerator)
    for _ in range(4):
        whole.epoch()
    expected = whole.weights
    first = Loop(tmp_path / "parts", accelerator)
    first.epoch()
    first.epoch()
    second = Loop(tmp_path / "parts", accelerator)
    assert second.progress.epoch == 2
    second.epoch()
    second.epoch()
    assert torch.equal(second.weights, expected)


@pytest.mark.parametrize(
    ("direction", "values", "best"), [("maximize", [0.5, 0.9, 0.9, 0.2], 2), ("minimize", [0.5, 0.9, 0.1, 0.1], 3)]
)
def test_best_is_kept_and_loaded(
    direction: str, values: list[float], best: int, tmp_path: Path, accelerator: Accelerator
) -> None:
    loop = Loop(tmp_path, accelerator, Score("validation/accuracy", direction))  # ty: ignore[invalid-argument-type]
    weights = {}
    for value in values:
        said = loop.epoch(value)
        weights[loop.progress.epoch] = loop.weights
        assert (said != {}) == (loop.progress.best_epoch == loop.progress.epoch)
    assert loop.progress.best_epoch == best
    loop.checkpoint.load_best(loop.model)
    assert torch.equal(loop.weights, weights[best])
    portable = load_portable(tmp_path / "best.pt")
    assert set(portable) == {"epoch", "model_state_dict", "optimizer_state_dict", "metrics", "config", "versions"}
    assert portable["epoch"] == best
    assert portable["config"] == {"seed": 0}
    optimizer = torch.optim.AdamW(loop.model.parameters(), lr=0.1)
    optimizer.load_state_dict(portable["optimizer_state_dict"])


def test_milestones_are_kept_and_a_last_record_saves_nothing(tmp_path: Path, accelerator: Accelerator) -> None:
    loop = Loop(tmp_path, accelerator)
    for _ in range(3):
        loop.epoch()
    assert [path.name for path in loop.checkpoint.milestone_files()] == ["epoch_002.pt"]
    before = loop.weights
    with torch.no_grad():
        loop.model.weight.zero_()
    loop.checkpoint.save(Record(3, {"test/accuracy": 1.0}))
    loop.checkpoint.finish()
    again = Loop(tmp_path, accelerator)
    assert torch.equal(again.weights, before)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "state"])
def test_damaged_checkpoint_falls_back_and_says_so(
    damage: str, tmp_path: Path, accelerator: Accelerator, caplog: pytest.LogCaptureFixture
) -> None:
    loop = Loop(tmp_path, accelerator)
    loop.epoch()
    first = loop.weights
    loop.epoch()
    victim = tmp_path / "last" / ("state.json" if damage == "state" else "model.safetensors")
    content = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    else:
        content[-1] ^= 1
        victim.write_bytes(content if damage == "flip" else content[:-10])
    with caplog.at_level(logging.WARNING, logger="labtrail"):
        again = Loop(tmp_path, accelerator)
    assert again.progress.epoch == 1
    assert torch.equal(again.weights, first)
    assert "is damaged" in caplog.text
    assert f"falling back to {tmp_path}/previous" in caplog.text


def test_no_whole_checkpoint_is_an_error_with_the_next_step(tmp_path: Path, accelerator: Accelerator) -> None:
    loop = Loop(tmp_path, accelerator)
    loop.epoch()
    (tmp_path / "last/optimizer.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint is left; remove .* to start over"):
        Loop(tmp_path, accelerator)
    shutil.rmtree(tmp_path)
    assert Loop(tmp_path, accelerator).progress.epoch == 0


def test_other_number_of_processes_is_refused(tmp_path: Path, accelerator: Accelerator) -> None:
    Loop(tmp_path, accelerator).epoch()
    path = tmp_path / "last/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "processes": 2}))
    with pytest.raises(CheckpointError, match="written by 2 processes, this launch has 1"):
        Loop(tmp_path, accelerator)


def test_crash_between_last_and_best_is_mended(tmp_path: Path, accelerator: Accelerator) -> None:
    loop = Loop(tmp_path, accelerator, Score("validation/accuracy"))
    loop.epoch(0.1)
    loop.epoch(0.9)
    expected = loop.weights
    (tmp_path / "best.pt").unlink()
    (tmp_path / "epoch_002.pt").unlink()
    again = Loop(tmp_path, accelerator, Score("validation/accuracy"))
    again.checkpoint.load_best(again.model)
    assert torch.equal(again.weights, expected)
    assert (tmp_path / "epoch_002.pt").exists()


def test_half_written_new_state_is_ignored(tmp_path: Path, accelerator: Accelerator) -> None:
    loop = Loop(tmp_path, accelerator)
    loop.epoch()
    (tmp_path / "new-0").mkdir()
    (tmp_path / "new-0/model.safetensors").write_bytes(b"half")
    again = Loop(tmp_path, accelerator)
    assert again.progress.epoch == 1
    again.epoch()
    assert json.loads((tmp_path / "last/state.json").read_text())["progress"]["epoch"] == 2


FULL_DISK = """
import resource, sys
from pathlib import Path
from accelerate import Accelerator
from accelerate.utils import memory as accelerate_memory
from labtrail.errors import CheckpointError
from tests.unit.running.test_checkpoint import Loop
loop = Loop(Path(sys.argv[1]), Accelerator(cpu=True))
loop.epoch()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    loop.epoch()
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [64, 1500])
def test_full_disk_keeps_the_last_whole_state(limit: int, tmp_path: Path, accelerator: Accelerator) -> None:
    """The system refuses writes beyond ``limit`` bytes: the first file, or a later one, does not fit."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "checkpoints"), str(limit)]
    environment = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'src'}", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False)
    assert "cannot write a checkpoint in" in done.stdout, done.stderr
    assert "run the same command to continue" in done.stdout
    assert done.stdout.count("\n") == 1
    assert not list((tmp_path / "checkpoints").glob("new*"))
    again = Loop(tmp_path / "checkpoints", accelerator)
    assert again.progress.epoch == 1


def test_damaged_portable_is_named(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"best\.pt: not a readable checkpoint"):
        load_portable(path)
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_portable(tmp_path / "absent.pt")


def test_uploads_reach_the_store_when_it_is_elsewhere(tmp_path: Path, accelerator: Accelerator) -> None:
    uploaded = []
    loop = Loop(tmp_path, accelerator, Score("validation/accuracy"), upload=lambda path: uploaded.append(path.name))
    loop.epoch(0.5)
    loop.epoch(0.4)
    loop.checkpoint.finish()
    assert uploaded == ["best.pt", "last", "epoch_002.pt", "last"]

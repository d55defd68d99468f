"""Whatever has a state is kept under its name and put back, or refused before the first step."""

import copy
import json
import random
import shutil
from collections import OrderedDict, deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from labtrail.config import Checkpointing
from labtrail.errors import CheckpointError
from labtrail.record import Record
from labtrail.running import checkpoint as checkpoint_module
from labtrail.running.checkpoint import Checkpoint
from labtrail.running.run import Run
from labtrail.running.snapshot import bytes_of, copied, revived
from tests.unit.running.loops import drive, line, step


@dataclass
class Counts:
    """Plain values of several types."""

    number: int = 0
    history: list[float] = field(default_factory=list)
    means: torch.Tensor = field(default_factory=lambda: torch.zeros(2))


class Owner:
    """Keeps its values in a list, and says how."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = list(state["values"])


def _counted(counts: Counts) -> float:
    counts.number += 1
    counts.history.append(counts.number * 0.5)
    counts.means += 1
    return counts.number + sum(counts.history) + float(counts.means.sum())


def _appended(values: list[float]) -> float:
    values.append(len(values) + 0.5)
    return sum(values)


def _averaged(average: nn.Module) -> float:
    for parameter in average.parameters():
        parameter.data += 0.25
    return float(sum(parameter.sum() for parameter in average.parameters()))


def _grown(array: Any) -> float:
    array += 1.5
    return float(array.sum())


def _several(parts: dict[str, Any]) -> float:
    return float(torch.rand((), generator=parts["torch"])) + float(parts["numpy"].random()) + _averaged(parts["net"])


# Name -> how the thing is made, and what an epoch does with it.
THINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "torch.Generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda generator: float(torch.rand((), generator=generator)),
    ),
    "numpy.random.Generator": (lambda: np.random.default_rng(1), lambda generator: float(generator.normal())),
    "numpy MT19937": (lambda: np.random.Generator(np.random.MT19937(1)), lambda generator: float(generator.random())),
    "numpy RandomState": (lambda: np.random.RandomState(1), lambda state: float(state.normal())),
    "random.Random": (lambda: random.Random(1), lambda generator: generator.gauss(0, 1)),
    "dataclass": (Counts, _counted),
    "list": (list, _appended),
    "dict": (
        lambda: {"n": 0, "deep": [1, (2, None)]},
        lambda values: float(values.update(n=values["n"] + 1) or values["n"]),
    ),
    "tensor": (lambda: torch.zeros(3), _grown),
    "array": (lambda: np.zeros((2, 2)), _grown),
    "own state_dict": (Owner, lambda owner: _appended(owner.values)),
    "module": (lambda: nn.Linear(2, 2).requires_grad_(False), _averaged),
    "several": (
        lambda: {
            "torch": torch.Generator().manual_seed(1),
            "numpy": np.random.default_rng(2),
            "net": nn.Linear(2, 1).requires_grad_(False),
        },
        _several,
    ),
}


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_is_put_back(name: str, tmp_path: Path) -> None:
    make, use = THINGS[name]

    def function(run: Run) -> Generator[Record]:
        model, optimizer = line()
        thing = make()
        for epoch in run.epochs(4, model, optimizer, thing=thing):
            step(model, optimizer)
            yield Record(epoch, {"train/loss": use(thing)})

    said: list[str] = []
    whole = drive(function, tmp_path / "whole", said=said)
    assert said == []
    assert drive(function, tmp_path / "cut", records=2) + drive(function, tmp_path / "cut") == whole
    assert len({record.metrics["train/loss"] for record in whole}) == 4


def test_models_and_optimizers_in_lists_and_dicts(tmp_path: Path) -> None:
    def function(run: Run) -> Generator[Record]:
        (first, first_optimizer), (second, second_optimizer) = line(), line()
        models, optimizers = {"first": first, "second": second}, [first_optimizer, second_optimizer]
        for epoch in run.epochs(4, models, optimizers):
            loss = step(first, first_optimizer)
            yield Record(epoch, {"train/loss": loss + step(second, second_optimizer, torch.full((1, 2), loss))})
        with torch.no_grad():
            first.weight.zero_()
        run.load_best(models)
        yield Record(4, {"test/weight": float(first.weight.detach().abs().sum())})

    whole = drive(function, tmp_path / "whole")
    assert drive(function, tmp_path / "cut", records=2) + drive(function, tmp_path / "cut") == whole
    assert whole[-1].metrics["test/weight"] > 0
    portable = torch.load(tmp_path / "whole/best.pt", weights_only=True)
    assert set(portable["model_state_dict"]) == {"first.weight", "first.bias", "second.weight", "second.bias"}


def _in_another_process() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator._custom_objects.clear()
    return accelerator


def test_what_the_accelerator_has_registered_is_kept(tmp_path: Path) -> None:
    def function(run: Run) -> Generator[Record]:
        owner, (model, optimizer) = Owner(), line()
        run.accelerator._custom_objects.clear()
        run.accelerator.register_for_checkpointing(owner)
        for epoch in run.epochs(3, model, optimizer):
            step(model, optimizer)
            yield Record(epoch, {"train/loss": _appended(owner.values)})
        run.accelerator._custom_objects.clear()

    whole = drive(function, tmp_path / "whole")
    assert drive(function, tmp_path / "cut", records=1) + drive(function, tmp_path / "cut") == whole


def test_what_is_registered_too_late_is_refused(tmp_path: Path) -> None:
    accelerator = _in_another_process()
    checkpoint = Checkpoint(tmp_path, accelerator)
    checkpoint.restore(*line()).epoch = 1
    accelerator.register_for_checkpointing(Owner())
    with pytest.raises(CheckpointError, match=r"register_for_checkpointing was called after run\.restore"):
        checkpoint.save(Record(0))
    accelerator._custom_objects.clear()


class Extra(nn.Linear):
    """A module that keeps something besides tensors."""

    def __init__(self, extra: Any) -> None:
        super().__init__(2, 1)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"step": lambda: 1}, "restore: step: a function has no state that can be put back"),
        ({"recent": deque([1])}, "restore: recent: a deque has no state that can be put back"),
        ({"rate": 0.5}, "restore: rate: a float has no state"),
        ({"nets": [nn.Linear(1, 1), object()]}, r"restore: nets\.1: a object has no state"),
        ({"model": Extra({"seen": {1, 2}})}, r"state\.model\._extra_state\.seen: a value of type set cannot be kept"),
        ({"model": "resnet"}, "restore: model: a str is no torch module"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(given: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=why):
        Checkpoint(tmp_path, Accelerator(cpu=True)).restore(**given)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_other_things_is_refused(tmp_path: Path) -> None:
    def kept(folder: Path, **state: Any) -> Checkpoint:
        checkpoint = Checkpoint(folder, Accelerator(cpu=True))
        checkpoint.restore(*line(), **state).epoch += 1
        checkpoint.save(Record(0))
        checkpoint.flush()
        return checkpoint

    kept(tmp_path / "with", counts=Counts())
    with pytest.raises(CheckpointError, match=r"holds, beside model and optimizer, counts; restore was given nothing"):
        kept(tmp_path / "with")
    kept(tmp_path / "without")
    with pytest.raises(CheckpointError, match=r"holds, beside model and optimizer, nothing; restore was given order"):
        kept(tmp_path / "without", order=torch.Generator())
    wider = Checkpoint(tmp_path / "without", Accelerator(cpu=True))
    with pytest.raises(CheckpointError, match=r"does not fit model: .*size mismatch for weight") as caught:
        wider.restore(*line(5))
    assert len(str(caught.value).splitlines()) == 1


def test_a_checkpoint_from_before_there_was_further_state_is_read(tmp_path: Path) -> None:
    """As 0.x wrote them: progress without a step, generators of all devices, nothing further."""
    model, optimizer = line()
    checkpoint = Checkpoint(tmp_path, Accelerator(cpu=True))
    checkpoint.restore(model, optimizer).epoch = 1
    step(model, optimizer)
    checkpoint.save(Record(0))
    checkpoint.flush()
    facts = json.loads((tmp_path / "last/state.json").read_text())
    facts["progress"] = {"epoch": 1, "best_epoch": None, "best_score": None}
    (tmp_path / "last/state.json").write_text(json.dumps(facts))
    again, again_optimizer = line()
    progress = Checkpoint(tmp_path, Accelerator(cpu=True)).restore(again, again_optimizer)
    assert progress.place == (1, 0)
    assert torch.equal(again.weight, model.weight)


def test_no_space_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoint_module.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(CheckpointError, match=r"it takes 1 MiB, 0 MiB are free"):
        Checkpoint(tmp_path, Accelerator(cpu=True)).restore(nn.Linear(512, 512))


def test_only_the_last_state_is_kept_of_large_ones(tmp_path: Path) -> None:
    def function(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(3, model, optimizer):
            yield Record(epoch, {"train/loss": step(model, optimizer)})

    drive(function, tmp_path / "two")
    drive(function, tmp_path / "one", settings=Checkpointing(keep=1))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["best.pt", "last", "previous"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["best.pt", "last"]


def test_load_best_without_a_best_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, optimizer = line()
    before = copy.deepcopy(model.state_dict())
    checkpoint = Checkpoint(tmp_path, Accelerator(cpu=True))
    checkpoint.restore(model, optimizer)
    checkpoint.load_best(model)
    assert "load_best: no best weights are kept, since its task names no score" in caplog.text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_are_of_plain_values_and_come_back_as_they_were() -> None:
    state = {
        "numbers": [1, 2.5, 3 + 1j, True, None, b"x"],
        ("a", 1): torch.arange(3),
        "sparse": torch.eye(3).to_sparse(),
        "array": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "empty": np.zeros((0, 2)),
        "scalar": np.float32(0.1),
        "type": torch.bfloat16,
        "ordered": OrderedDict(a=(1, [2])),
    }
    copy_of = copied(state, None)
    assert bytes_of(copy_of) >= 3 * 8 + 6 * 4
    state["array"][:] = 0
    back = revived(copy_of)
    assert back["array"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert back["array"].dtype == np.uint32
    assert (back["scalar"], type(back["scalar"])) == (np.float32(0.1), np.float32)
    assert back["empty"].shape == (0, 2)
    assert torch.equal(back["sparse"].to_dense(), torch.eye(3))
    assert back["numbers"] == state["numbers"]
    assert back["ordered"] == {"a": (1, [2])}
    assert torch.equal(back["a", 1], torch.arange(3))


def test_copies_use_the_buffers_of_the_copy_before() -> None:
    tensor = torch.ones(3)
    first = copied({"w": tensor}, None)
    second = copied({"w": tensor * 2}, first)
    assert second["w"] is first["w"]
    assert second["w"].tolist() == [2, 2, 2]
    assert copied({"w": torch.ones(4)}, second)["w"] is not second["w"]

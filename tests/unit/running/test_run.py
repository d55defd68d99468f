"""What a task is given: epochs that count when their Record is taken, and state that is kept or refused."""

from collections.abc import Generator
from pathlib import Path

import pytest

from labtrail.errors import LabtrailError
from labtrail.record import Record
from labtrail.running.run import Run
from tests.unit.running.loops import drive, line, step


def descent(run: Run) -> Generator[Record]:
    model, optimizer = line()
    for epoch in run.epochs(5, model, optimizer):
        yield Record(epoch, {"train/loss": step(model, optimizer)})
    yield Record(5, {"test/loss": step(model, optimizer)})


@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_a_killed_loop_goes_on_with_the_next_epoch(tmp_path: Path, killed_after: int) -> None:
    whole = drive(descent, tmp_path / "whole")
    before = drive(descent, tmp_path / "cut", records=killed_after)
    after = drive(descent, tmp_path / "cut")
    assert [record.step for record in whole] == [0, 1, 2, 3, 4, 5]
    assert before + after == whole


def test_an_epoch_without_a_record_counts_with_the_next_one(tmp_path: Path) -> None:
    def every_second(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(6, model, optimizer):
            loss = step(model, optimizer)
            if epoch % 2:
                yield Record(epoch, {"train/loss": loss})

    whole = drive(every_second, tmp_path / "whole")
    assert drive(every_second, tmp_path / "cut", records=2) + drive(every_second, tmp_path / "cut") == whole


def test_a_loop_that_is_left_early_may_yield_again(tmp_path: Path) -> None:
    def stopped(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(6, model, optimizer):
            yield Record(epoch, {"train/loss": step(model, optimizer)})
            if epoch == 1:
                break
        yield Record(6, {"test/loss": 0.0})
        yield Record(7, {"test/loss": 0.0})

    assert [record.step for record in drive(stopped, tmp_path)] == [0, 1, 6, 7]


def test_a_second_record_of_an_epoch_is_refused(tmp_path: Path) -> None:
    def twice(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(2, model, optimizer):
            yield Record(epoch, {"train/loss": step(model, optimizer)})
            yield Record(epoch, {"validation/loss": 0.0})

    with pytest.raises(LabtrailError, match="epoch 0 yields a second Record"):
        drive(twice, tmp_path)


def test_milestones_are_kept(tmp_path: Path) -> None:
    def kept(run: Run) -> Generator[Record]:
        model, optimizer = line()
        for epoch in run.epochs(4, model, optimizer, milestones=(2, 4)):
            yield Record(epoch, {"train/loss": step(model, optimizer)})
        yield Record(4, {"test/files": float(len(run.milestone_files()))})

    assert drive(kept, tmp_path)[-1].metrics == {"test/files": 2.0}

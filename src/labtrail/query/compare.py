"""Two runs number by number and tensor by tensor; equal means equal to the bit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from labtrail.query.find import artifact, artifact_names
from labtrail.query.query import Query
from labtrail.store import contract

if TYPE_CHECKING:
    import torch

# Times and memory of the machine.
_MEASURED = "system/"
_LAST = f"{contract.CHECKPOINTS}/last"
_MODEL = "model.safetensors"


class Point(NamedTuple):
    """One number of a run."""

    step: int
    metric: str


class Numbers(NamedTuple):
    """How the histories of two runs compare.

    Attributes:
        count: numbers of the first one.
        equal: how many of them the other has, to the bit.
        first: the earliest that differs, with both values (NaN where one lacks it); None if all are equal.
        largest: the largest relative difference, and where; None if all are equal.
    """

    count: int
    equal: int
    first: tuple[Point, float, float] | None
    largest: tuple[float, Point] | None

    @property
    def same(self) -> bool:
        """Whether both have the same numbers, to the bit."""
        return self.first is None

    def __str__(self) -> str:
        if self.first is None:
            return f"all {self.count} equal to the bit" if self.count else "none to compare"
        point, then, now = self.first
        text = f"{self.equal} of {self.count} equal; first difference at step {point.step}, {point.metric}: "
        text += f"{then!r} then, {now!r} now"
        if self.largest is not None:
            text += f"; largest relative difference {self.largest[0]:.2g} ({self.largest[1].metric})"
        return text


class Tensors(NamedTuple):
    """How the kept weights of two runs compare.

    Attributes:
        count: tensors of both.
        differing: names of those that differ, or that one of them lacks.
        largest: the largest absolute difference of an element; NaN where shapes differ.
    """

    count: int
    differing: tuple[str, ...]
    largest: float

    @property
    def same(self) -> bool:
        """Whether all are equal to the bit."""
        return not self.differing

    def __str__(self) -> str:
        if not self.count:
            return "none were kept"
        if self.same:
            return f"all {self.count} equal to the bit"
        return (
            f"{len(self.differing)} of {self.count} differ, by at most {self.largest:.2g} ({self.differing[0]} first)"
        )


def numbers_of(run_id: str, measured: Sequence[str] = ()) -> dict[Point, float]:
    """All points of a run's metrics by step and name, but for what is measured of the machine.

    Args:
        run_id: of the run.
        measured: beginnings of the names of such metrics, beside those of every run.
    """
    query = Query().only([run_id]).ended(*contract.ANY_END)
    names = [name for name in query.metrics() if not name.startswith((_MEASURED, *measured))]
    history = query.history(names) if names else pd.DataFrame(columns=["step", "metric", "value"])
    return {
        Point(int(step), str(metric)): float(value)
        for step, metric, value in history[["step", "metric", "value"]].itertuples(index=False)
    }


def compare_numbers(then: Mapping[Point, float], now: Mapping[Point, float], head: bool = False) -> Numbers:
    """Compares histories.

    Args:
        then, now: as ``numbers_of`` gives them.
        head: only what ``now`` has reached, since that run was ended early.
    """
    if head:
        reached = max((point.step for point in now), default=-1)
        then = {point: value for point, value in then.items() if point.step <= reached}
    pairs = {point: (then.get(point, math.nan), now.get(point, math.nan)) for point in sorted({*then, *now})}
    differing = {point: pair for point, pair in pairs.items() if not _same(*pair) or (point in then) != (point in now)}
    if not differing:
        return Numbers(len(then), len(then), None, None)
    first = next(iter(differing))
    gaps = [(_gap(*pair), point) for point, pair in differing.items()]
    known = [gap for gap in gaps if not math.isnan(gap[0])]
    equal = sum(point not in differing for point in then)
    return Numbers(len(then), equal, (first, *differing[first]), max(known) if known else None)


def _same(then: float, now: float) -> bool:
    return then == now or (math.isnan(then) and math.isnan(now))


def _gap(then: float, now: float) -> float:
    return abs(then - now) / max(abs(then), abs(now), 1e-300)


def within(then: Mapping[Point, float], repeated: Sequence[Mapping[Point, float]]) -> Iterator[Point]:
    """The numbers that lie outside the range of several other runs."""
    for point, value in sorted(then.items()):
        others = [run[point] for run in repeated if point in run]
        inside = len(others) == len(repeated) and min(others) <= value <= max(others)
        if not inside and not all(_same(value, other) for other in others):
            yield point


def weights_of(run_id: str) -> dict[str, Path]:
    """Files of the weights that a run has kept: those of its best epoch, and the last ones."""
    files = {}
    if "best.pt" in artifact_names(run_id, contract.CHECKPOINTS):
        files["best"] = artifact(run_id, contract.BEST_WEIGHTS)
    if _MODEL in artifact_names(run_id, _LAST):
        files["last"] = artifact(run_id, f"{_LAST}/{_MODEL}")
    return files


def compare_weights(then: Mapping[str, Path], now: Mapping[str, Path]) -> Tensors:
    """Compares files of weights.

    Args:
        then, now: as ``weights_of`` gives them.
    """
    import torch

    count, differing, largest = 0, [], 0.0
    for name in sorted(then.keys() | now.keys()):
        first, other = (_tensors(files[name]) if name in files else {} for files in (then, now))
        count += len(first.keys() | other.keys())
        for key in [*first, *(key for key in other if key not in first)]:
            if key in first and key in other and _equal_bits(first[key], other[key]):
                continue
            differing.append(f"{name}: {key}")
            if key in first and key in other and first[key].shape == other[key].shape:
                gap = float((first[key].to(torch.float64) - other[key].to(torch.float64)).abs().max())
                largest = max(largest, gap)
            else:
                largest = math.nan
    return Tensors(count, tuple(differing), largest)


def _tensors(path: Path) -> "Mapping[str, torch.Tensor]":
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, weights_only=True, map_location="cpu")["model_state_dict"]


def _equal_bits(first: "torch.Tensor", other: "torch.Tensor") -> bool:
    """Equal to the bit, NaN included."""
    import torch

    if first.dtype != other.dtype or first.shape != other.shape:
        return False
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, other)]
    return torch.equal(*flat)

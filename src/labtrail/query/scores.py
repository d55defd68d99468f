"""Which way is up: what makes one run better than another, as told by the runs themselves or by a metric's name.

Why: docs/decisions/034-runs-name-their-score.md
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from labtrail.store import contract

_SMALLER_IS_BETTER = (
    "loss",
    "nll",
    "brier",
    "ece",
    "error",
    "perplexity",
    "bytes",
    "seconds",
    "time",
    "mib",
    "fraction",
    "distance",
    "mae",
    "mse",
    "rmse",
    "wer",
    "cer",
    "latency",
    "energy",
    "regret",
    "memory",
)
_ENDS_OF_INTERVALS = ("_low", "_high")


class Direction(NamedTuple):
    """A metric and whether more of it is better."""

    metric: str
    larger: bool

    def best(self, values: Iterable[float]) -> float:
        """The best of some values, at least one."""
        return max(values) if self.larger else min(values)

    @property
    def words(self) -> str:
        """For people."""
        return "larger is better" if self.larger else "smaller is better"


def score_from_tags(tags: Iterable[object]) -> Direction | None:
    """The score that runs name in their tag ``labtrail.score`` (``maximize validation/accuracy``), if they agree."""
    distinct = {tag for tag in tags if isinstance(tag, str)}
    if len(distinct) != 1:
        return None
    direction, _, metric = distinct.pop().partition(" ")
    return Direction(metric, direction == "maximize")


def direction_of(metric: str, score: Direction | None = None) -> Direction:
    """A metric's direction: that of the score if it is the same quantity of another split, else by its name."""
    quantity = metric.rpartition("/")[2]
    if score is not None and quantity == score.metric.rpartition("/")[2]:
        return Direction(metric, score.larger)
    return Direction(metric, not any(word in quantity.replace("_", " ").split() for word in _SMALLER_IS_BETTER))


def headline(known: Sequence[str], score: Direction | None) -> list[str]:
    """The metrics that tell a run's result, the one that counts first.

    Those of the test set; else the best of the score; else all that are neither of training nor of the machine.

    Args:
        known: names of the metrics that runs have.
        score: as ``told``.
    """
    tests = [name for name in known if name.startswith("test/") and not name.endswith(_ENDS_OF_INTERVALS)]
    quantity = score.metric.rpartition("/")[2] if score else "accuracy"
    tests.sort(key=lambda name: (name != f"test/{quantity}", name))
    best = f"{contract.BEST_PREFIX}/{score.metric}" if score else ""
    names = tests + ([best] if best in known else [])
    apart = ("train/", "system/", f"{contract.BEST_PREFIX}/epoch", "campaign/")
    return names or [name for name in known if not name.startswith(apart)]

"""What science yields: records of what was measured, the data it was measured on, and what makes an epoch the best."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Record:
    """The outcome of one epoch or one measurement.

    Attributes:
        step: epoch (counted from 0) or index of the measurement.
        metrics: name -> finite number; names are grouped by a prefix (``train/loss``).
        files: artifact path -> what to store there: a str or bytes, the path of an existing file, a Figure or PIL image
            (``.png``), a DataFrame (``.csv``, ``.parquet``), an array (``.npy``), tensors (``.pt``), plain values
            (``.json``).
    """

    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSource:
    """One data set that a run reads.

    Attributes:
        name: what people call it (``wlasl50-train``).
        context: its part in the run: ``train``, ``validation`` or ``test``.
        location: file, folder or name it was read from.
        digest: sha-256 of its content, hexadecimal.
        profile: counts worth seeing beside the name (``{"clips": 276}``).
        run_id: the run whose artifact this is; empty for data from outside the store.
    """

    name: str
    context: str
    location: str
    digest: str
    profile: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""


@dataclass(frozen=True)
class Score:
    """What makes an epoch the best: a metric of its record and a direction."""

    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"

    def beats(self, value: float, best: float | None) -> bool:
        """Whether a value is strictly better than the best so far."""
        if best is None:
            return True
        return value > best if self.direction == "maximize" else value < best


def named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """The same metrics under ``prefix/name``."""
    return {f"{prefix}/{name}": value for name, value in metrics.items()}

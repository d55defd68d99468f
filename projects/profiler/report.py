"""One self-contained page about a profiled model: memory over the step, and its nodes, activations and modules."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from labtrail.report.pages import filled
from projects.profiler.charts import PART_COLOURS
from projects.profiler.profile import Profile

_HERE = Path(__file__).parent
_NODES = (
    "id",
    "op",
    "phase",
    "role",
    "run_time_s",
    "peak_memory_bytes",
    "created_bytes",
    "workspace_bytes",
    "module",
    "source",
)
_ACTIVATIONS = (
    "name",
    "memory_bytes",
    "inactive_time_s",
    "swap_time_s",
    "recomp_time_s",
    "recomp_memory_bytes",
    "random",
    "created_rank",
    "last_forward_rank",
    "first_backward_rank",
    "module",
)


def write_report(
    title: str, about: str, limit_bytes: float | None, profiles: Mapping[int, Profile], summaries: Sequence[str]
) -> str:
    """The page as HTML.

    Args:
        title, about: words above everything.
        limit_bytes: memory of the device; None: not known.
        profiles: batch size -> profile.
        summaries: one line for each of them.
    """
    steps = [_step(profile, text) for profile, text in zip(profiles.values(), summaries, strict=True)]
    facts = {
        "title": title,
        "about": about,
        "limit_bytes": limit_bytes,
        "batch_sizes": list(profiles),
        "colours": PART_COLOURS,
    }
    packed = {"STEPS": json.dumps(steps, separators=(",", ":")).encode()}
    return filled(_HERE / "report.html", _HERE / "report.js", facts, packed)


def _step(profile: Profile, summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "measured": profile.peaks is not None,
        "first": profile.traced.graph.first_call,
        "starts": {phase.value: rank for phase, rank in profile.traced.graph.phase_starts().items()},
        "parts": {name: held.tolist() for name, held in profile.parts.items()},
        "nodes": _columns(profile.node_stats(), _NODES),
        "activations": _columns(profile.activation_stats(), _ACTIVATIONS),
    }


def _columns(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    rounded = frame.round({name: 9 for name in names if name.endswith("_s")})
    return {name: rounded[name].tolist() if name in rounded else [] for name in names}

"""A profile as text for a terminal."""

import pandas as pd

from projects.profiler.profile import Profile

_ROWS = 8


def size(count: float) -> str:
    """Bytes in the unit that reads best: ``1.5 GiB``."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best: ``1.5 ms``."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= factor:
            return f"{seconds / factor:.2f} {unit}"
    return f"{seconds * 1e6:.1f} us"


def summary(profile: Profile) -> str:
    """Where memory and time go: the peak with its parts, the slowest nodes, the largest activations."""
    graph = profile.traced.graph
    at = graph.nodes[profile.peak_node]
    parts = {name: int(held[at.id]) for name, held in profile.parts.items()}
    nodes, kept = profile.node_stats(), profile.activation_stats()
    slow = nodes.nlargest(_ROWS, "run_time_s").assign(time=lambda f: f["run_time_s"].map(duration))
    lines = [
        f"predicted peak {size(profile.peak_bytes)} at node {at.id} of {len(graph.nodes)}: {at.op}, {at.phase.value}"
        f"{f', {at.module}' if at.module else ''}",
        "  " + ", ".join(f"{name.replace('_', ' ')} {size(count)}" for name, count in parts.items()),
        "",
        f"slowest of {len(graph.nodes) - graph.first_call} nodes, {duration(profile.graph_time_s)} in all",
        _text(slow[["id", "op", "phase", "time", "module"]]),
    ]
    if len(kept):
        large = kept.nlargest(_ROWS, "memory_bytes")
        shown = pd.DataFrame(
            {
                "name": large["name"],
                "size": large["memory_bytes"].map(size),
                "inactive": large["inactive_time_s"].map(duration),
                "swap": large["swap_time_s"].map(duration),
                "recompute": large["recomp_time_s"].map(duration),
                "module": large["module"],
            }
        )
        lines += ["", f"largest of {len(kept)} activations, {size(kept['memory_bytes'].sum())} in all", _text(shown)]
    return "\n".join(lines)


def _text(frame: pd.DataFrame) -> str:
    return frame.to_string(index=False)

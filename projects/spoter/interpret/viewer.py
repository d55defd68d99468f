"""One self-contained page: every head of some clips at every epoch, with the skeletons; it needs no network.

Weights are stored as bytes in units of each head's largest weight, skeletons as 16-bit integers. Where the page
would become too large, long clips keep fewer queries (never fewer keys), and the page says so.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labtrail.report.pages import filled
from labtrail.statistics import entropy
from projects.spoter.interpret.study import Study
from projects.spoter.skeleton import BONES

_HERE = Path(__file__).parent
_QUERIES = (256, 96, 64, 48, 32, 24, 16, 12, 8, 4, 2)
_BYTE, _WORD = 255, 65535


class Packed(NamedTuple):
    """What the page shows.

    Attributes:
        facts: names, shapes and small numbers, for JSON.
        binary: for each clip its poses (T, 54, 2) as uint16, then for each epoch and module the heads' largest
            weights (H,) as float32 and their weights (H, queries, T) as uint8; little-endian, no padding.
    """

    facts: dict[str, Any]
    binary: bytes


def write_viewer(study: Study) -> str:
    """The page as HTML, at most ``viewer.megabytes`` large.

    Long clips keep fewer queries until it is; if even two a clip are too many, the smallest page is returned.
    """
    page = ""
    for queries in _QUERIES:
        page = _page(_pack(study, study.few(study.config.viewer.clips), queries))
        if len(page) <= study.config.viewer.megabytes * 1e6:
            break
    return page


def _page(packed: Packed) -> str:
    from plotly.offline import get_plotlyjs

    large = {"BINARY": packed.binary, "PLOTLY": get_plotlyjs().encode()}
    return filled(_HERE / "viewer.html", _HERE / "viewer.js", packed.facts, large)


def _pack(study: Study, clips: list[int], most_queries: int) -> Packed:
    first = next(iter(study.files.values()))
    parts: list[bytes] = []
    shown = []
    for clip in clips:
        poses, box = _poses(study.split.clips.clip(clip))
        parts.append(poses.tobytes())
        length = int(first.frames[clip])
        queries = np.unique(np.linspace(0, length - 1, min(length, most_queries)).round().astype(int))
        spread: list[list[list[float]]] = []
        for file in study.files.values():
            weights = file.clip(clip)
            parts += [part for name in file.modules for part in _bytes(weights[name], queries)]
            spread.append([_spread(weights[name]) for name in file.modules])
        label = int(study.split.labels[clip])
        guesses = [study.names[int(file.predictions[clip])] for file in study.files.values()]
        shown.append(
            {
                "clip": clip,
                "sign": study.names[label],
                "frames": length,
                "queries": queries.tolist(),
                "box": box,
                "predictions": guesses,
                "entropy": spread,
            }
        )
    facts = {
        "run": study.subject.run_id,
        "name": study.subject.name,
        "split": study.split.name,
        "synthetic": study.subject.config.data.train == "synthetic",
        "positions": study.subject.config.model.positions,
        "epochs": list(study.files),
        "modules": list(first.modules),
        "heads": first.heads,
        "bones": BONES,
        "thinned": int(first.frames[clips].max()) > most_queries,
        "clips": shown,
    }
    return Packed(facts, b"".join(parts))


def _poses(frames: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Coordinates within the box of all present joints, 1 .. 65535 (0 = missing), and width / height of the box."""
    present = frames[..., 0] != 0
    seen = frames[present]
    low, high = (seen.min(axis=0), seen.max(axis=0)) if len(seen) else (np.zeros(2), np.ones(2))
    size = np.maximum(high - low, 1e-6)
    scaled = 1 + np.round((frames - low) / size * (_WORD - 1))
    return np.where(present[..., None], scaled, 0).clip(0, _WORD).astype("<u2"), size.tolist()


def _bytes(weights: np.ndarray, queries: np.ndarray) -> tuple[bytes, bytes]:
    """Largest weight of each head, and the weights in units of it; an encoder keeps the given queries only."""
    kept = weights[:, queries] if weights.shape[1] > 1 else weights
    largest = kept.max(axis=(1, 2))
    scaled = np.round(kept / largest[:, None, None] * _BYTE).astype(np.uint8)
    return largest.astype("<f4").tobytes(), scaled.tobytes()


def _spread(weights: np.ndarray) -> list[float]:
    """Entropy / log T of each head, to three digits; 0 for a single frame."""
    frames = weights.shape[-1]
    values = entropy(weights).mean(axis=1) / np.log(frames) if frames > 1 else np.zeros(len(weights))
    return [round(float(value), 3) for value in values]

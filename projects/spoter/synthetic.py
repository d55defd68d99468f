"""Synthetic signs in the release's CSV form: the embedded default, so that everything runs without downloads.

A sign is a path of each wrist and a hand shape; a clip adds a signer (place, size), a tempo, jitter and
missing hands. The numbers say nothing about sign language: results on them are labelled synthetic.
"""

import csv
import io
from pathlib import Path

import numpy as np

import labtrail as lt
from projects.spoter.config import SyntheticConfig
from projects.spoter.skeleton import BODY_SLICE, HAND, JOINTS, LEFT_HAND, RIGHT_HAND

FOLDER = Path("data/synthetic")
_SPLITS = ("train", "validation", "test")
_WAYPOINTS = 4

# Places of the resting body in fractions of the picture, y upwards; order of skeleton.BODY.
_REST = np.array(
    [
        (0.50, 0.74),
        (0.50, 0.62),
        (0.48, 0.76),
        (0.52, 0.76),
        (0.46, 0.75),
        (0.54, 0.75),
        (0.42, 0.60),
        (0.58, 0.60),
        (0.38, 0.45),
        (0.62, 0.45),
        (0.40, 0.32),
        (0.60, 0.32),
    ]
)
_LEFT_WRIST, _RIGHT_WRIST = JOINTS.index("leftWrist"), JOINTS.index("rightWrist")


def write_split(split: str, config: SyntheticConfig, folder: Path = FOLDER) -> Path:
    """The CSV of one split, generated unless it is there; the same config and code give the same bytes.

    Args:
        split: ``train``, ``validation`` or ``test``.
        config: size and difficulty.
        folder: where the files go, one folder per config and code of this generator.
    """
    path = folder / lt.fingerprint(config, lt.code_fingerprint(generate, to_csv)) / f"{split}.csv"
    if not path.exists():
        clips, labels = generate(split, config)
        lt.write_atomically(path, to_csv(clips, labels).encode())
    return path


def generate(split: str, config: SyntheticConfig) -> tuple[list[np.ndarray], np.ndarray]:
    """Clips of shape (T, 54, 2), float64, and their labels, int64, counted from 0."""
    signs = _signs(config)
    generator = np.random.default_rng((config.seed, _SPLITS.index(split)))
    labels = np.arange(getattr(config, split)) % config.classes
    return [_clip(signs, label, config, generator) for label in labels], labels


def _signs(config: SyntheticConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(config.seed)
    return {
        "path": generator.uniform(-0.18, 0.18, (config.classes, 2, _WAYPOINTS, 2)) + np.array([0.0, 0.2]),
        "shape": generator.normal(0, 0.035, (config.classes, 2, len(HAND), 2)),
        "one_handed": generator.random(config.classes) < 0.4,
    }


def _clip(
    signs: dict[str, np.ndarray], label: int, config: SyntheticConfig, generator: np.random.Generator
) -> np.ndarray:
    frames = max(2, int(generator.normal(config.frames, config.frames / 5)))
    place = np.clip(np.linspace(0, _WAYPOINTS - 1, frames) * generator.uniform(0.9, 1.0), 0, _WAYPOINTS - 1)
    clip = np.empty((frames, len(JOINTS), 2))
    clip[:, BODY_SLICE] = _REST
    for side, (wrist, hand) in enumerate(((_LEFT_WRIST, LEFT_HAND), (_RIGHT_WRIST, RIGHT_HAND))):
        path_points = signs["path"][label, side] + generator.normal(0, config.noise, (_WAYPOINTS, 2))
        steps = np.arange(_WAYPOINTS)
        track = np.stack([np.interp(place, steps, path_points[:, axis]) for axis in range(2)], axis=-1)
        clip[:, wrist] += track
        shape = signs["shape"][label, side] + generator.normal(0, config.noise / 2, (len(HAND), 2))
        clip[:, hand] = clip[:, wrist][:, None] + shape
    clip += generator.normal(0, config.noise / 10, clip.shape)
    clip = (clip - 0.5) * generator.uniform(0.85, 1.1) + 0.5 + generator.normal(0, 0.02, 2)
    if signs["one_handed"][label]:
        clip[:, LEFT_HAND] = 0.0
    clip[generator.random(frames) < 0.05, RIGHT_HAND] = 0.0
    return clip


def to_csv(clips: list[np.ndarray], labels: np.ndarray) -> str:
    """The text of a release CSV; labels are written from 1."""
    names = [name.replace("_0", "_left").replace("_1", "_right") for name in JOINTS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(f"{name}_{axis}" for name in names for axis in "XY"), "labels"])
    for clip, label in zip(clips, labels, strict=True):
        columns = clip.reshape(len(clip), -1).T.tolist()
        writer.writerow([*map(str, columns), int(label) + 1])
    return text.getvalue()

"""Generated recordings in the form of the originals: 54-column text, bouts, 9 Hz heart rate, dropouts.

An activity is a rhythm, a posture and a heart rate; a person changes all three. The numbers say nothing about
people: results on them are labelled synthetic.
"""

from pathlib import Path

import numpy as np

import labtrail as lt
from projects.pamap2.config import SyntheticConfig
from projects.pamap2.schema import COLUMNS, OTHER, PLACES, RATE_HZ, SENSORS

FOLDER = Path("data/synthetic")
_HEART_RATE_EVERY = 11
_ROW = " ".join(["%.2f", "%d", *["%.6g"] * len(SENSORS)])


def write_recordings(config: SyntheticConfig, folder: Path = FOLDER) -> Path:
    """A folder of .dat files, generated unless it is there; the same config and code give the same bytes."""
    target = folder / f"pamap2-{lt.fingerprint(config, lt.code_fingerprint(generate, to_text))}"
    for subject in range(101, 101 + config.subjects):
        path = target / "Protocol" / f"subject{subject}.dat"
        if not path.exists():
            lt.write_atomically(path, to_text(generate(subject, config)).encode())
    return target


def generate(subject: int, config: SyntheticConfig) -> np.ndarray:
    """One subject's recording, shape (n, 54), float64; columns as ``COLUMNS``."""
    generator = np.random.default_rng((config.seed, subject))
    styles = {activity: _style(activity, config) for activity in config.activities}
    person = generator.normal(0, 0.1 * config.noise, (len(PLACES), 9))
    pace = 1 + generator.normal(0, 0.04 * config.noise)
    order = [activity for _ in range(config.bouts) for activity in generator.permutation(config.activities)]
    parts, clock = [], 5.0
    for activity in order:
        for label, seconds in ((OTHER, 1.0), (int(activity), config.bout_s * generator.uniform(0.8, 1.2))):
            rows = round(seconds * RATE_HZ)
            part = np.full((rows, len(COLUMNS)), np.nan)
            part[:, 0] = clock + np.arange(rows) / RATE_HZ
            part[:, 1] = label
            _fill(part[:, 2:], styles[int(activity)], person, pace, config, generator)
            parts.append(part)
            clock = part[-1, 0] + 1 / RATE_HZ
        # A pause, as between the sessions of a recording.
        clock += float(generator.integers(0, 2)) * 30.0
    return np.concatenate(parts)


def _style(activity: int, config: SyntheticConfig) -> dict[str, np.ndarray]:
    generator = np.random.default_rng((config.seed, 10_000 + activity))
    return {
        "posture": generator.normal(0, 0.2, (len(PLACES), 9)),
        "strength": generator.uniform(0.2, 0.8, (len(PLACES), 9)),
        "rhythm": generator.uniform(0.6, 3.0, len(PLACES)),
        "heart_rate": np.array(generator.uniform(90, 130)),
    }


def _fill(
    rows: np.ndarray,
    style: dict[str, np.ndarray],
    person: np.ndarray,
    pace: float,
    config: SyntheticConfig,
    generator: np.random.Generator,
) -> None:
    """Writes the 52 sensors of one stretch, in place."""
    seconds = np.arange(len(rows)) / RATE_HZ
    measured = slice(int(generator.integers(_HEART_RATE_EVERY)), None, _HEART_RATE_EVERY)
    rows[measured, 0] = np.round(style["heart_rate"] + generator.normal(0, 4) + 3 * np.sin(seconds[measured] / 3))
    for place in range(len(PLACES)):
        start = 1 + place * 17
        phase = 2 * np.pi * (style["rhythm"][place] * pace * seconds + generator.random())
        wave = np.sin(phase[:, None] + np.arange(9)) * style["strength"][place]
        motion = style["posture"][place] + person[place] + wave
        motion = motion + generator.normal(0, 0.15 * config.noise, motion.shape)
        rows[:, start] = 33 + place
        rows[:, start + 1 : start + 4] = 9.8 * motion[:, :3]
        rows[:, start + 4 : start + 7] = np.clip(9.8 * motion[:, :3], -60, 60)
        rows[:, start + 7 : start + 10] = motion[:, 3:6]
        rows[:, start + 10 : start + 13] = 40 * motion[:, 6:]
        rows[:, start + 13 : start + 17] = (1, 0, 0, 0)
        rows[generator.random(len(rows)) < config.dropout, start : start + 17] = np.nan


def to_text(rows: np.ndarray) -> str:
    """The text of a .dat file; missing values are written NaN."""
    return "\n".join([_ROW % tuple(row) for row in rows.tolist()]).replace("nan", "NaN") + "\n"

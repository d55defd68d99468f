"""Heart rate from about 9 Hz to every row: filled within a subject, then smoothed by a rolling median."""

from typing import Literal

import numpy as np
import pandas as pd

Median = Literal["trailing", "centered", "native"]
SAMPLES = 25


def smooth_heart_rate(values: np.ndarray, median: Median, samples: int = SAMPLES) -> np.ndarray:
    """One subject's heart rate on every row.

    Args:
        values: beats a minute, shape (n,), float32; NaN where nothing was measured.
        median: ``trailing``: fill forwards, then backwards, then the median of the last ``samples`` rows (0.25 s at
            100 Hz); ``centered``: the same with the window around each row; ``native``: the median of the last
            ``samples`` measurements (about 2.8 s), then the filling.
        samples: length of the window; shorter at the ends.

    Returns:
        Shape (n,), float32; NaN only where the subject has no measurement at all.
    """
    series = pd.Series(values)
    if median == "native":
        measured = series.dropna()
        return _filled(measured.rolling(samples, min_periods=1).median().reindex(series.index)).to_numpy(np.float32)
    rolling = _filled(series).rolling(samples, min_periods=1, center=median == "centered")
    return rolling.median().to_numpy(np.float32)


def _filled(series: pd.Series) -> pd.Series:
    return series.ffill().bfill()

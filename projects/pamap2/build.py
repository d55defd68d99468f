"""From recordings to a prepared data set in its place: read, checked, cleaned, and swapped in as a whole."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

import labtrail as lt
from projects.pamap2.config import SYNTHETIC, DataConfig
from projects.pamap2.dataset import INDEX, LABELS, ROWS, SECONDS, SUBJECTS, Dataset, load_dataset, save_dataset
from projects.pamap2.heart_rate import Median, smooth_heart_rate
from projects.pamap2.quality import quality_table
from projects.pamap2.recording import Recording, parse_recording
from projects.pamap2.schema import FULL_ROWS, OTHER, SENSORS
from projects.pamap2.source import open_recordings
from projects.pamap2.synthetic import write_recordings


def open_data(config: DataConfig) -> Dataset:
    """The prepared data set that a config names; the synthetic one is generated and prepared if it is not there."""
    if config.folder != SYNTHETIC:
        return load_dataset(Path(config.folder))
    source = write_recordings(config.synthetic)
    output = source / f"prepared-{lt.code_fingerprint(build)}"
    if not (output / INDEX).is_file():
        build(source / "Protocol", output, "trailing")
    return load_dataset(output)


def build(
    source: Path, output: Path, median: Median, extras: Callable[[Dataset, Path], None] = lambda _dataset, _folder: None
) -> pd.DataFrame:
    """Prepares recordings into ``output``, which then holds the old data set or the new one, never a mixture.

    Args:
        source: zip or folder of .dat files.
        output: where the data set goes.
        median: how heart rate is smoothed.
        extras: writes further forms beside the arrays, before the data set is in place.

    Returns:
        Missing values of each subject's sensors before anything was filled.

    Raises:
        DataError: bad input, named by file and line; or an output that was not made here.
    """
    if output.exists() and not output.is_symlink():
        raise lt.DataError(f"output: {output} exists and was not made by pamap2-prepare; name another folder")
    files = tqdm(open_recordings(source), desc="recordings", unit="file", leave=False, disable=None)
    recordings = [_without_other(parse_recording(content, name)) for name, content in files]
    _check_full(recordings)
    missing = pd.concat([quality_table(recording) for recording in recordings], ignore_index=True)
    for recording in recordings:
        column = recording.values[:, SENSORS.index("heart_rate")]
        column[:] = smooth_heart_rate(column, median)
    arrays = {
        ROWS: np.concatenate([recording.values for recording in recordings]),
        SECONDS: np.concatenate([recording.seconds for recording in recordings]),
        SUBJECTS: np.concatenate(
            [np.full(len(recording.seconds), recording.subject, np.int16) for recording in recordings]
        ),
        LABELS: np.concatenate([recording.activities for recording in recordings]),
    }
    facts = {"heart_rate_median": median, "subjects": [recording.subject for recording in recordings]}
    with lt.replaced_folder(output) as fresh:
        save_dataset(fresh, arrays, facts)
        extras(load_dataset(fresh), fresh)
    return missing


def _without_other(recording: Recording) -> Recording:
    kept = recording.activities != OTHER
    if not kept.any():
        raise lt.DataError(f"subject {recording.subject}: expected labelled rows, found activity 0 only")
    return Recording(recording.subject, recording.seconds[kept], recording.activities[kept], recording.values[kept])


def _check_full(recordings: Sequence[Recording]) -> None:
    """Asserts the published row counts wherever all nine subjects are given."""
    rows = {recording.subject: len(recording.seconds) for recording in recordings}
    if set(rows) == set(FULL_ROWS) and rows != FULL_ROWS:
        wrong = next(subject for subject in FULL_ROWS if rows[subject] != FULL_ROWS[subject])
        raise lt.DataError(
            f"subject {wrong}: expected {FULL_ROWS[wrong]} rows with activity 0 dropped, found {rows[wrong]}; "
            "the download is not the published one, fetch it again"
        )

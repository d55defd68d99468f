"""What finished runs answer on their test windows, as frames: everything that an analysis is made from."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from accelerate import Accelerator
from tqdm import tqdm

from projects.pamap2.dataset import Dataset, bout_of_rows
from projects.pamap2.evaluate import ALL_PRESENT, macro_f1, predict
from projects.pamap2.folds import Fold
from projects.pamap2.inputs import NAMES, make_resident, subset_names
from projects.pamap2.judged import SUBSETS, Judged, load_model
from projects.pamap2.schema import RATE_HZ

SHARES = tuple(f"share_{name}" for name in NAMES)


class Evidence(NamedTuple):
    """Frames of all runs.

    Attributes:
        windows: a row for each run and test window: run_id, fold, start (its first row), subject, label, guess (class
            indices), edge_s (seconds between the window and the nearer end of its bout) and the modalities' shares,
            NaN where a fusion has none.
        subsets: a row for each run and subset of modalities: run_id, subset, one bool per modality, macro_f1.
    """

    windows: pd.DataFrame
    subsets: pd.DataFrame


def collect(runs: Sequence[Judged], accelerator: Accelerator) -> Evidence:
    """Asks every run about its test windows, with every subset of the modalities there."""
    parts: list[pd.DataFrame] = []
    guesses: dict[tuple[str, tuple[bool, ...]], list[np.ndarray]] = defaultdict(list)
    labels: dict[str, list[np.ndarray]] = defaultdict(list)
    bar = tqdm(total=sum(len(run.folds) for run in runs), desc="runs", unit="fold", leave=False, disable=None)
    for group in _of_one_split(runs):
        first = group[0]
        for number, fold in enumerate(first.folds):
            window = first.config.split.window
            resident = make_resident(first.dataset.values, first.classes.labels, fold, window, accelerator.device)
            for judged in group:
                model = load_model(judged, fold, accelerator.device)
                for there in SUBSETS:
                    logits, shares = predict(model, resident, judged.folds[number].test, accelerator, there)
                    guesses[judged.run_id, there].append(logits.argmax(axis=1))
                    if there == ALL_PRESENT:
                        parts.append(_answers(judged, fold, guesses[judged.run_id, there][-1], shares))
                labels[judged.run_id].append(judged.classes.labels[fold.test])
                bar.update()
    bar.close()
    scored = [
        {
            "run_id": run_id,
            "subset": subset_names(there),
            **dict(zip(NAMES, there, strict=True)),
            "macro_f1": macro_f1(np.concatenate(labels[run_id]), np.concatenate(answer)),
        }
        for (run_id, there), answer in guesses.items()
    ]
    return Evidence(pd.concat(parts, ignore_index=True), pd.DataFrame(scored))


def _of_one_split(runs: Sequence[Judged]) -> Iterator[list[Judged]]:
    """Runs that share their windows, together: rows are then scaled once for all of them."""
    groups: dict[bytes, list[Judged]] = defaultdict(list)
    for run in runs:
        groups[b"/".join(fold.train.tobytes() + fold.test.tobytes() for fold in run.folds)].append(run)
    yield from groups.values()


def _answers(run: Judged, fold: Fold, guesses: np.ndarray, shares: np.ndarray | None) -> pd.DataFrame:
    filled = np.full((len(guesses), len(NAMES)), np.nan) if shares is None else shares
    return pd.DataFrame(
        {
            "run_id": run.run_id,
            "fold": fold.name,
            "start": fold.test,
            "subject": np.asarray(run.dataset.subjects)[fold.test],
            "label": run.classes.labels[fold.test],
            "guess": guesses,
            "edge_s": edge_seconds(run.dataset, fold.test, run.config.split.window),
            **dict(zip(SHARES, filled.T, strict=True)),
        }
    )


def edge_seconds(dataset: Dataset, starts: np.ndarray, window: int) -> np.ndarray:
    """Seconds between each window and the nearer end of its bout, shape (n,)."""
    bouts = bout_of_rows(dataset.seconds, dataset.subjects, dataset.activities)
    window_bouts = bouts[starts]
    before = starts - np.searchsorted(bouts, window_bouts, side="left")
    after = np.searchsorted(bouts, window_bouts, side="right") - (starts + window)
    return np.minimum(before, after) / RATE_HZ

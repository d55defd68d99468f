"""Finished pamap2 runs, as the tasks that judge them read them: config, data, folds and weights."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from safetensors.torch import load_file

import labtrail as lt
from projects.pamap2.build import open_data
from projects.pamap2.config import Pamap2Config
from projects.pamap2.dataset import Dataset
from projects.pamap2.folds import Classes, Fold, classes_of, make_folds
from projects.pamap2.inputs import CHANNELS, NAMES
from projects.pamap2.model import FusionModel

SUBSETS = [there for there in product((True, False), repeat=len(NAMES)) if any(there)]


class Judged(NamedTuple):
    """One finished run and what it was trained and tested on.

    Attributes:
        run_id, config: of the run.
        dataset, classes, folds: made again from its config; the data are proven to be those of the run.
    """

    run_id: str
    config: Pamap2Config
    dataset: Dataset
    classes: Classes
    folds: list[Fold]


def open_run(run_id: str) -> Judged:
    """A finished run with its data.

    Raises:
        DataError: the folder it was trained on holds other data by now.
    """
    config = lt.run_config(run_id, Pamap2Config)
    dataset = open_data(config.data)
    trained_on = lt.data_digests(run_id)
    if dataset.digest not in trained_on:
        raise lt.DataError(
            f"{dataset.folder}: its data are not those of run {run_id}; prepare the recordings as they were, or "
            "repeat the run"
        )
    return Judged(run_id, config, dataset, classes_of(dataset), make_folds(dataset, config.split, config.seed))


def load_model(judged: Judged, fold: Fold, device: torch.device) -> FusionModel:
    """The network of one fold with its weights.

    Raises:
        CheckpointError: the weights are of another version of the network.
    """
    model = FusionModel(judged.config.model, CHANNELS, len(judged.classes.ids))
    path = lt.artifact(judged.run_id, fold.weights_name)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise lt.CheckpointError(
            f"{path}: weights of another network than this version makes; repeat the run"
        ) from error
    return model.to(device)


def judged_sources(runs: Sequence[Judged]) -> list[lt.DataSource]:
    """The data set of each run, and the weights of every fold."""
    data_sources = {run.dataset.digest: _data_source(run.dataset) for run in runs}
    weights = []
    for run in runs:
        for fold in run.folds:
            profile = {"fold": fold.name}
            weights.append(lt.artifact_source(run.run_id, fold.weights_name, "checkpoint", profile=profile))
    return [*data_sources.values(), *weights]


def _data_source(dataset: Dataset) -> lt.DataSource:
    return lt.DataSource("pamap2", "test", str(dataset.folder), dataset.digest)

"""What a training run reads."""

from collections.abc import Sequence

import numpy as np

import labtrail as lt
from projects.pamap2.build import open_data
from projects.pamap2.config import Pamap2Config
from projects.pamap2.folds import make_folds


def sources(config: Pamap2Config) -> Sequence[lt.DataSource]:
    """The prepared data set; a split that it cannot give is refused here, before anything starts."""
    dataset = open_data(config.data)
    make_folds(dataset, config.split, config.seed)
    profile = {
        "rows": len(dataset),
        "subjects": len(np.unique(dataset.subjects)),
        "activities": len(np.unique(dataset.activities)),
    }
    name = config.data.folder if config.data.folder == "synthetic" else "pamap2"
    return [lt.DataSource(name, "train", str(dataset.folder), dataset.digest, profile)]

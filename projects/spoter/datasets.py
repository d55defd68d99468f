"""The skeleton data sets that ``fetch`` knows."""

from pathlib import Path

import labtrail as lt
from projects.spoter.clips import parse_csv

_RELEASE = "https://github.com/maty-bohacek/spoter/releases/download/supplementary-data"
_BLOBS = {
    "train": "239f963f7945ec8474f215194796a4f264406e60",
    "val": "e9d2554ba4b62129d0fdfc0c38cb36015d5fb36b",
    "test": "a31dfaf5028460ed3166eb3aa5931def089f27f4",
}
_NAMES = {"train": "train", "val": "validation", "test": "test"}


def _check(path: Path) -> None:
    parse_csv(path, "labels")


WLASL100 = lt.DataSet(
    name="wlasl100",
    assets=tuple(
        lt.Asset(f"WLASL100_{name}_25fps.csv", f"{_NAMES[name]}.csv", f"{_RELEASE}/WLASL100_{name}_25fps.csv", blob)
        for name, blob in _BLOBS.items()
    ),
    licence="CC BY-NC 4.0 (the authors' release): no commercial use, not to be passed on",
    check=_check,
)

WLASL50 = lt.DataSet(
    name="wlasl50",
    assets=tuple(lt.Asset(f"WLASL50_mediapipe_{name}.csv.gz", f"{target}.csv.gz") for name, target in _NAMES.items()),
    licence="made from WLASL (C-UDA): computational use, no commercial use, not to be passed on",
    check=_check,
)

DATASETS = (WLASL100, WLASL50)

"""The PAMAP2 archive, for ``fetch``."""

from pathlib import Path

import labtrail as lt
from projects.pamap2.source import open_recordings

_NAME = "pamap2+physical+activity+monitoring.zip"


def _check(path: Path) -> None:
    # Reading every member checks its CRC; what the lines hold is checked when they are prepared.
    if not any(content for _, content in open_recordings(path)):
        raise lt.DataError(f"{path}: no recording in the archive")


PAMAP2 = lt.DataSet(
    name="pamap2",
    assets=(lt.Asset(_NAME, "pamap2.zip", f"https://archive.ics.uci.edu/static/public/231/{_NAME}"),),
    licence="CC BY 4.0; cite Reiss & Stricker 2012 (UCI 231)",
    check=_check,
)

DATASETS = (PAMAP2,)

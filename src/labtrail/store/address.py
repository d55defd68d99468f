"""The address of the store that all is read from and written to."""

import os

from labtrail.store import lab

SQLITE = "sqlite:///"


def tracking_uri() -> str:
    """The store's address: MLFLOW_TRACKING_URI, or ``mlflow.db`` in the lab's folder; never relative."""
    return absolute(os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db")


def absolute(uri: str) -> str:
    """An address that means the same from every folder."""
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        uri = f"{SQLITE}{(lab.working_folder() / uri.removeprefix(SQLITE)).resolve()}"
    return uri

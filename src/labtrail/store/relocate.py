"""Artifact addresses after their folder has moved: MLflow keeps absolute ones, and has no call that changes them."""

from pathlib import Path

from sqlalchemy import create_engine, text

from labtrail.errors import ClaimError
from labtrail.store.connection import local_path, open_checked, tracking_uri

# Table and column of every place in which the store keeps an artifact's address.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def relocate(old: Path, new: Path, uri: str = "") -> dict[str, int]:
    """Rewrites the addresses of artifacts after their folder was moved; all of them or none.

    MLflow keeps absolute addresses, and has no call that changes them: this one goes to the database itself.

    Args:
        old: folder as it was called.
        new: as it is called now.
        uri: of another store than the current one.

    Returns:
        "table.column" -> number of addresses that were changed.

    Raises:
        ClaimError: the store is a server, whose artifacts have no folder, or ``new`` is not there.
    """
    if not new.is_dir():
        raise ClaimError(f"{new}: no such folder; name the one that the artifacts lie in now")
    uri = uri or tracking_uri()
    if uri.startswith(("http://", "https://")):
        raise ClaimError(f"{uri}: a server keeps no folders of ours; run this where its database is")
    open_checked(uri)
    engine = create_engine(uri)
    changed = {}
    with engine.begin() as connection:
        for table, column in _ADDRESSES:
            rows = connection.execute(text(f"SELECT DISTINCT {column} FROM {table}")).scalars()  # noqa: S608 own names
            moved = {row: _moved(row, old, new) for row in rows if row}
            count = 0
            for before, after in moved.items():
                if after != before:
                    statement = text(f"UPDATE {table} SET {column} = :after WHERE {column} = :before")  # noqa: S608
                    count += connection.execute(statement, {"after": after, "before": before}).rowcount
            changed[f"{table}.{column}"] = count
    engine.dispose()
    return changed


def _moved(address: str, old: Path, new: Path) -> str:
    folder = local_path(address)
    if folder is None or not folder.is_relative_to(old):
        return address
    moved = new / folder.relative_to(old)
    return moved.as_uri() if address.startswith("file:") else str(moved)

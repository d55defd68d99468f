"""Closing a round: its results in a folder, its runs marked, and, if wanted, a copy that can be brought back.

Why: docs/decisions/035-an-export-is-a-store.md
"""

import json
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from labtrail.errors import LabtrailError
from labtrail.files import encode, remove, sha256_of, sync_tree, write_atomically
from labtrail.query.query import Query, require
from labtrail.query.selection import RunRow
from labtrail.report.build import build
from labtrail.report.config import ReportConfig
from labtrail.report.markdown import markdown
from labtrail.running.run_status import set_tags
from labtrail.store import connection, contract, locks, relocate
from labtrail.store.sync import Counts, sync

_MANIFEST = "manifest.json"
_DATABASE = "mlflow.db"
_README = "README.md"
_FORMAT = 1
_PACKED = (".tar.gz", ".tgz")
# Tags that name other runs without which one cannot be understood.
_NAMING = (contract.PARENT, contract.SAME_AS, contract.READS)


class Archived(NamedTuple):
    """What was closed.

    Attributes:
        folder: with README.md, report.html, tables and figures.
        runs: how many runs were marked.
        exported: where the copy is; None if none was asked for.
    """

    folder: Path
    runs: int
    exported: Path | None


def archive(campaign: str, root: Path, export: Path | None = None) -> Archived:
    """Closes a round; what was interrupted is finished by another call.

    Args:
        campaign: its name.
        root: folder below which ``campaign`` becomes a folder.
        export: folder or ``.tar.gz`` that the runs are copied to, with what they read and all artifacts; registered
            models are not part of it.

    Raises:
        QueryError: there is no such campaign.
        LabtrailError: some of its runs have not ended, its name is not a name of a folder, or something is in the way;
            nothing has been written.
    """
    runs = _runs_of(campaign)
    folder = root / campaign
    if campaign in (".", "..") or Path(campaign).name != campaign:
        raise LabtrailError(f"campaign {campaign!r}: is not a name of a folder, so it cannot be archived")
    if opened := [run for run in runs if run.end in contract.OPEN]:
        raise LabtrailError(
            f"campaign {campaign}: {len(opened)} runs have not ended, the first is {opened[0].name} "
            f"({opened[0].run_id}); wait, cancel them, or close dead ones with 'labtrail reap'"
        )
    closed = [run.tags[contract.ARCHIVED] for run in runs if contract.ARCHIVED in run.tags]
    if folder.exists() and not (folder / _README).is_file():
        raise LabtrailError(f"{folder}: is in the way; move it, or name another with --folder")
    whole = len(closed) == len(runs) and folder.exists()
    if whole and export is None:
        raise LabtrailError(f"campaign {campaign}: was archived on {closed[0]}; its results are in {folder}")
    if export is not None:
        _refuse_in_the_way(export, folder)
        _export(_with_relatives([*runs, *Query().campaign(campaign).ended(*contract.ANY_END).rows()]), export)
    if not folder.exists():
        _write(folder, campaign, runs, export)
    marked = [run for run in runs if contract.ARCHIVED not in run.tags]
    for run in marked:
        set_tags(run.run_id, {contract.ARCHIVED: f"{datetime.now(UTC):%Y-%m-%d}"})
    return Archived(folder, len(marked), export)


def _refuse_in_the_way(export: Path, folder: Path) -> None:
    if export.exists():
        raise LabtrailError(f"{export}: is there already; name another place for the copy")
    source, target = export.absolute(), folder.absolute()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise LabtrailError(f"{export}: lies in {folder}, or around it; name another place for the copy")


def _runs_of(campaign: str) -> Sequence[RunRow]:
    """All runs of a round, that of the campaign itself among them."""
    everything = Query().ended(*contract.ANY_END).with_archived().rows()
    members = [run for run in everything if _round_of(run) == campaign]
    if not members:
        require("campaign", campaign, sorted({name for run in everything if (name := _round_of(run))}))
    return members


def _round_of(run: RunRow) -> str:
    if run.tags[contract.TASK] == "campaign":
        return run.params.get(f"{contract.CONFIG_PREFIX}name", "")
    return run.tags.get(contract.CAMPAIGN, "")


def _write(folder: Path, campaign: str, runs: Sequence[RunRow], export: Path | None) -> None:
    """The folder of results, whole or not at all."""
    fresh = folder.with_name(f".{folder.name}.arriving")
    remove(fresh)
    today = f"Closed on {datetime.now(UTC):%Y-%m-%d}."
    if Query().campaign(campaign).rows():
        made = build(ReportConfig(campaign=campaign))
        for name, content in {"report.html": made.html, **made.tables, **made.figures}.items():
            write_atomically(fresh / name, encode(name, content))
        words = markdown(f"Round {campaign}", today, made.sections)
    else:
        words = markdown(f"Round {campaign}", f"{today} None of its {len(runs)} runs has finished.", [])
    write_atomically(fresh / _README, f"{words}\n\n{_whereabouts(campaign, runs, export)}".encode())
    sync_tree(fresh)
    fresh.rename(folder)


def _whereabouts(campaign: str, runs: Sequence[RunRow], export: Path | None) -> str:
    """Where everything is, as Markdown."""
    where = [
        "`report.html`: this, with figures; `tables/`: every number; `figures/`: as PNG.",
        f"`Query().campaign({campaign!r})` still finds the runs; searches that name neither the round nor the runs "
        "leave them out.",
    ]
    if export is not None:
        where.append(f"`{export}`: a copy of all runs with their artifacts; `labtrail restore` brings it back.")
    ids = " ".join(run.run_id for run in runs)
    listed = "\n".join(f"- {line}" for line in where)
    hidden = f"<details><summary>Ids of all {len(runs)} runs</summary>\n\n{ids}\n\n</details>\n"
    return f"## Where everything is\n\n{listed}\n\n{hidden}"


def _with_relatives(runs: Iterable[RunRow]) -> list[str]:
    """Ids of the runs, of all that they name, and of all that these name."""
    everything = {run.run_id: run for run in Query().ended(*contract.ANY_END).with_archived().rows()}
    wanted, waiting = set[str](), [run.run_id for run in runs]
    while waiting:
        path = waiting.pop()
        if path not in wanted and path in everything:
            wanted.add(path)
            waiting += [name for tag in _NAMING for name in everything[path].tags.get(tag, "").split()]
    return [run_id for run_id in everything if run_id in wanted]


def _export(run_ids: Sequence[str], target: Path) -> None:
    """A store of its own with these runs: a folder, or one file. Its manifest is written last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.name.endswith(_PACKED):
        target.mkdir()
        try:
            _fill(run_ids, target)
        except BaseException:
            remove(target)
            raise
        return
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        folder, fresh = Path(scratch) / "round", Path(scratch) / target.name
        folder.mkdir()
        _fill(run_ids, folder)
        with tarfile.open(fresh, "w:gz") as file:
            file.add(folder, arcname=folder.name)
        fresh.replace(target)


def _fill(run_ids: Sequence[str], folder: Path) -> None:
    _copy_runs(run_ids, folder.absolute())
    files = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
    manifest = {"format": _FORMAT, "folder": str(folder.absolute()), "sha256": files}
    write_atomically(folder / _MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_runs(run_ids: Sequence[str], folder: Path) -> None:
    source, target = connection.current_store(), connection.create_store(f"sqlite:///{folder / _DATABASE}")
    names = {experiment.experiment_id: experiment.name for experiment in connection.all_experiments(source)}
    for experiment_id in {run.experiment_id for run in Query().ended(*contract.ANY_END).only(run_ids).rows()}:
        connection.experiment_named(target, names[experiment_id], str(folder / "artifacts"))
    sync(source, target, set(run_ids))


def restore(path: Path) -> Counts:
    """Brings an exported round into the current store; runs that are there already are not brought again.

    Raises:
        LabtrailError: it is not an export, it is damaged, or of a later version; nothing has been written.
    """
    with _opened(path) as folder, tempfile.TemporaryDirectory() as scratch, locks.locked("sync"):
        before = _checked(path, folder)
        # Addresses are changed in a copy: an export stays what it is.
        database = Path(scratch) / _DATABASE
        shutil.copy(folder / _DATABASE, database)
        uri = f"sqlite:///{database}"
        if before != folder.absolute():
            relocate.relocate(before, folder.absolute(), uri)
        source = connection.open_store(uri)
        _refuse_foreign_addresses(path, folder.resolve(), source)
        return sync(source, connection.current_store())


def _refuse_foreign_addresses(path: Path, folder: Path, source: connection.MlflowClient) -> None:
    """Artifacts are taken from the export itself only, whatever its database says."""
    for run in connection.search(source, ""):
        place = connection.local_path(str(run.info.artifact_uri))
        if place is None or not place.resolve().is_relative_to(folder):
            raise LabtrailError(f"{path}: run {run.info.run_id} has its artifacts elsewhere; nothing was restored")


@contextmanager
def _opened(path: Path) -> Generator[Path]:
    """The folder of an export, unpacked if it is one file."""
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise LabtrailError(f"{path}: there is no such file or folder")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with tarfile.open(path, "r:*") as file:
                # Refuses absolute names, names that lead out of the folder, links and devices.
                file.extractall(scratch, filter="data")
        except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise LabtrailError(f"{path}: cannot be unpacked: {error}") from error
        folders = [path for path in Path(scratch).iterdir() if path.is_dir()]
        if len(folders) != 1:
            raise LabtrailError(f"{path}: is not an export of a round; 'labtrail archive --export' writes one")
        yield folders[0]


def _checked(path: Path, folder: Path) -> Path:
    """The folder in which the export was made, once every file is found to be what the manifest says."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        version, before, digests = manifest["format"], Path(manifest["folder"]), dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabtrailError(f"{path}: is not an export of a round; 'labtrail archive --export' writes one") from error
    if version != _FORMAT:
        raise LabtrailError(f"{path}: its format is {version}, this version reads {_FORMAT}; use a newer labtrail")
    names = {str(file.relative_to(folder)) for file in _files(folder)} - {_MANIFEST}
    for name in sorted({*digests, *names, _DATABASE}):
        place = folder / name
        if name not in digests or place.is_symlink() or not place.is_file() or sha256_of(place) != digests[name]:
            raise LabtrailError(f"{path}: {name} is damaged, missing or foreign; nothing was restored")
    return before

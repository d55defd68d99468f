"""Closing a round: its results in a folder, its runs marked, and, if wanted, a copy that can be brought back."""

import json
import shutil
import tarfile
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from labtrail import contract, store
from labtrail.errors import LabtrailError
from labtrail.files import encode, remove, sha256_of, sync_tree, write_atomically
from labtrail.handover import annotate
from labtrail.query import Query, require
from labtrail.report.build import Report, build
from labtrail.report.config import ReportConfig
from labtrail.report.markdown import markdown
from labtrail.selection import Found
from labtrail.sync import Counts, sync

_MANIFEST = "manifest.json"
_DATABASE = "mlflow.db"
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
    """Closes a round.

    Args:
        campaign: its name.
        root: folder below which ``campaign`` becomes a folder.
        export: folder or ``.tar.gz`` that the runs, with all they have, are copied to.

    Raises:
        QueryError: there is no such campaign.
        LabtrailError: some of its runs have not ended, or a folder or file is in the way; nothing has been written.
    """
    runs = _runs_of(campaign)
    if opened := [run for run in runs if run.end in contract.OPEN]:
        raise LabtrailError(
            f"campaign {campaign}: {len(opened)} runs have not ended, the first is {opened[0].name} "
            f"({opened[0].run_id}); wait, cancel them, or close dead ones with 'labtrail reap'"
        )
    folder = root / campaign
    closed = [run.tags[contract.ARCHIVED] for run in runs if contract.ARCHIVED in run.tags]
    whole = len(closed) == len(runs) and folder.is_dir()
    if not whole and folder.exists():
        raise LabtrailError(f"{folder}: is there already; move it away, or give the new round another name")
    if whole and export is None:
        raise LabtrailError(f"campaign {campaign}: was archived on {closed[0]}; its results are in {folder}")
    if export is not None and export.exists():
        raise LabtrailError(f"{export}: is there already; name another place for the copy")
    if not whole:
        made = build(ReportConfig(campaign=campaign))
        _write(folder, campaign, made, runs, export)
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        for run in runs:
            annotate(run.run_id, {contract.ARCHIVED: today})
    if export is not None:
        _export(campaign, _with_relatives(runs), export)
    return Archived(folder, 0 if whole else len(runs), export)


def _runs_of(campaign: str) -> Sequence[Found]:
    """All runs of a round, that of the campaign itself among them."""
    everything = Query().ended(*contract.ANY_END).with_archived().found()
    own = [run for run in everything if _round_of(run) == campaign]
    if not own:
        require("campaign", campaign, sorted({name for run in everything if (name := _round_of(run))}))
    return own


def _round_of(run: Found) -> str:
    if run.tags[contract.TASK] == "campaign":
        return run.params.get(f"{contract.CONFIG_PREFIX}name", "")
    return run.tags.get(contract.CAMPAIGN, "")


def _write(folder: Path, campaign: str, made: Report, runs: Sequence[Found], export: Path | None) -> None:
    """The folder of results, whole or not at all."""
    fresh = folder.with_name(f".{folder.name}.arriving")
    remove(fresh)
    for name, content in {"report.html": made.html, **made.tables, **made.figures}.items():
        write_atomically(fresh / name, encode(name, content))
    (fresh / "README.md").write_text(_readme(campaign, made, runs, export), encoding="utf-8")
    sync_tree(fresh)
    fresh.rename(folder)


def _readme(campaign: str, made: Report, runs: Sequence[Found], export: Path | None) -> str:
    task = runs[0].tags[contract.TASK]
    where = [
        "`report.html`: this, with figures; `tables/`: every number; `figures/`: as PNG.",
        f'`Query("{task}").campaign("{campaign}")` still finds the runs; searches that name neither the round nor the '
        "runs leave them out.",
    ]
    if export is not None:
        where.append(f"`{export}`: a copy of all runs with their artifacts; `labtrail restore` brings it back.")
    ids = " ".join(run.run_id for run in runs)
    return "\n\n".join(
        [
            markdown(f"Round {campaign}", f"Closed on {datetime.now(UTC):%Y-%m-%d}.", made.sections),
            "## Where everything is",
            "\n".join(f"- {one}" for one in where),
            f"<details><summary>Ids of all {len(runs)} runs</summary>\n\n{ids}\n\n</details>\n",
        ]
    )


def _with_relatives(runs: Iterable[Found]) -> list[str]:
    """Ids of the runs, of all that they name, and of all that these name."""
    everything = {run.run_id: run for run in Query().ended(*contract.ANY_END).with_archived().found()}
    wanted, waiting = set[str](), [run.run_id for run in runs]
    while waiting:
        one = waiting.pop()
        if one not in wanted and one in everything:
            wanted.add(one)
            waiting += [name for tag in _NAMING for name in everything[one].tags.get(tag, "").split()]
    return [run_id for run_id in everything if run_id in wanted]


def _export(campaign: str, run_ids: Sequence[str], target: Path) -> None:
    """A store of its own with these runs: a folder, or one file. Its manifest is written last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    packed = target.name.endswith(_PACKED)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent)) if packed else target
    try:
        folder.mkdir(exist_ok=packed)
        _copy_runs(run_ids, folder.absolute())
        files = {str(path.relative_to(folder)): sha256_of(path) for path in _files(folder)}
        told = {"format": _FORMAT, "campaign": campaign, "folder": str(folder.absolute()), "sha256": files}
        write_atomically(folder / _MANIFEST, (json.dumps(told, indent=1) + "\n").encode())
        if packed:
            fresh = target.with_name(f".{target.name}.tmp")
            with tarfile.open(fresh, "w:gz") as file:
                file.add(folder, arcname=campaign)
            fresh.replace(target)
    except BaseException:
        remove(folder)
        raise
    if packed:
        remove(folder)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _copy_runs(run_ids: Sequence[str], folder: Path) -> None:
    source, target = store.connect(), store.created(f"sqlite:///{folder / _DATABASE}")
    names = {one.experiment_id: one.name for one in store.all_experiments(source)}
    for experiment_id in {run.experiment_id for run in Query().ended(*contract.ANY_END).only(run_ids).found()}:
        store.experiment_named(target, names[experiment_id], str(folder / "artifacts"))
    sync(source, target, set(run_ids))


def restore(path: Path) -> Counts:
    """Brings an exported round into the current store; runs that are there already are not brought again.

    Raises:
        LabtrailError: it is no export, it is damaged, or of a later version; nothing has been written.
    """
    with _opened(path) as folder:
        told = _checked(path, folder)
        with tempfile.TemporaryDirectory() as scratch:
            # Addresses are changed in a copy: an export stays what it is.
            database = Path(scratch) / _DATABASE
            shutil.copy(folder / _DATABASE, database)
            uri = f"sqlite:///{database}"
            if Path(told["folder"]) != folder.absolute():
                store.relocate(Path(told["folder"]), folder.absolute(), uri)
            return sync(store.client_of(uri), store.connect())


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
        except (tarfile.TarError, OSError, EOFError) as error:
            raise LabtrailError(f"{path}: cannot be unpacked: {error}") from error
        folders = [one for one in Path(scratch).iterdir() if one.is_dir()]
        if len(folders) != 1:
            raise LabtrailError(f"{path}: is no export of a round; 'labtrail archive --export' writes one")
        yield folders[0]


def _checked(path: Path, folder: Path) -> dict:
    """What the manifest tells, once every file is found to be what it says."""
    try:
        told = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        version, digests = told["format"], told["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabtrailError(f"{path}: is no export of a round; 'labtrail archive --export' writes one") from error
    if version != _FORMAT:
        raise LabtrailError(f"{path}: its format is {version}, this version reads {_FORMAT}; use a newer labtrail")
    for name, digest in digests.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != digest:
            raise LabtrailError(f"{path}: {name} is damaged or missing; nothing was restored")
    return told

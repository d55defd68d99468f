"""``labtrail fetch``: brings a data set of any project into data/."""

import logging
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import click

from labtrail.errors import DataError
from labtrail.running.cli import HELP, LabCommand
from labtrail.running.registry import task_modules
from labtrail.store import contract
from labtrail.store.fetch import DataSet, fetch

_log = logging.getLogger("labtrail")


def known_datasets() -> Mapping[str, DataSet]:
    """The data sets of all projects by name: ``DATASETS`` of a module ``datasets`` beside the tasks."""
    data_sets = {}
    for name in dict.fromkeys(f"{module.rpartition('.')[0]}.datasets".lstrip(".") for module in task_modules()):
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        data_sets |= {dataset.name: dataset for dataset in module.DATASETS}
    return data_sets


@click.command(cls=LabCommand, name="fetch", context_settings=HELP)
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--dataset", hidden=True)
@click.option(
    "--from-file", "--from_file", default="", metavar="PATH", help="Folder or file to import instead of downloading."
)
def command(name: str | None, dataset: str | None, from_file: str) -> int:
    """Downloads a named data set, or imports local files, with checks; run it where there is internet."""
    datasets = known_datasets()
    wanted = name or dataset or ""
    if wanted not in datasets:
        raise DataError(f"dataset {wanted!r} is unknown; valid: {', '.join(sorted(datasets))}")
    chosen = datasets[wanted]
    folder = fetch(chosen, Path(from_file) if from_file else None)
    files = ", ".join(asset.target for asset in chosen.assets)
    message = f"{chosen.name}: {files} in {folder}. Licence: {chosen.licence}."
    _log.info("%s", message)
    if "MLFLOW_RUN_ID" in os.environ:
        from labtrail.running.run_status import describe_given

        describe_given(message)
    return contract.DONE

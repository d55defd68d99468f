"""``python -m projects.fetch``: brings a data set of any project into data/."""

import logging
import os
from importlib import import_module
from pathlib import Path

import click

from labtrail.errors import DataError
from labtrail.fetch import DataSet, fetch
from labtrail.running.cli import command_line

_log = logging.getLogger("labtrail")


def known_datasets() -> dict[str, DataSet]:
    """The data sets of all projects by name."""
    modules = sorted(Path(__file__).parent.glob("*/datasets.py"))
    found = [one for path in modules for one in import_module(f"projects.{path.parent.name}.datasets").DATASETS]
    return {one.name: one for one in found}


@click.command(name="python -m projects.fetch", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--dataset", "name", required=True, help="Name of the data set; a wrong one lists them all.")
@click.option("--from_file", default="", help="Folder or file to import instead of downloading.")
def main(name: str, from_file: str) -> None:
    """Downloads a data set, or imports local files, with checks; run it where there is internet."""
    datasets = known_datasets()
    if name not in datasets:
        raise DataError(f"dataset {name!r} is unknown; valid: {', '.join(sorted(datasets))}")
    dataset = datasets[name]
    folder = fetch(dataset, Path(from_file) if from_file else None)
    files = ", ".join(asset.target for asset in dataset.assets)
    message = f"{dataset.name}: {files} in {folder}. Licence: {dataset.licence}."
    _log.info("%s", message)
    if "MLFLOW_RUN_ID" in os.environ:
        from labtrail.running.run_status import describe_given

        describe_given(message)


if __name__ == "__main__":
    command_line(main)

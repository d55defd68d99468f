"""Work that was done under an earlier form of its config: before a field was added whose default changes nothing.

Why: docs/decisions/053-new-fields-and-old-keys.md
"""

from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from labtrail.config import flatten
from labtrail.query.find import data_digests
from labtrail.query.query import Query
from labtrail.query.selection import RunRow
from labtrail.running.identity import Identity
from labtrail.store import contract


def under_an_earlier_config(client: MlflowClient, identity: Identity) -> tuple[RunRow, list[str]] | None:
    """The newest finished run whose config, completed by today's defaults, is the one that is asked for.

    Args:
        client: of the store.
        identity: of the work, which no run has done under its key.

    Returns:
        The run, and the fields that it did not have; None if there is none.
    """
    values = {f"{contract.CONFIG_PREFIX}{name}": str(value) for name, value in flatten(identity.config).items()}
    defaults = _defaults(identity)
    # Those of the same seed: a round has hundreds of runs, and each new cell asks.
    alike = Query(identity.task, client=client).configured({"seed": identity.config.seed}).with_archived().rows()
    digests = {source.digest for source in identity.sources}
    for run in reversed(alike):
        stored = {name: value for name, value in run.params.items() if name.startswith(contract.CONFIG_PREFIX)}
        new = sorted(values.keys() - stored.keys())
        if not new or stored.keys() - values.keys() or any(values[name] != stored[name] for name in stored):
            continue
        if any(values[name] != defaults.get(name) for name in new):
            continue
        if run.tags.get(contract.PROCESSES) != identity.tags.get(contract.PROCESSES):
            continue
        if data_digests(run.run_id, client) == digests:
            return run, [name.removeprefix(contract.CONFIG_PREFIX) for name in new]
    return None


def _defaults(identity: Identity) -> Mapping[str, Any]:
    """The default of each value, as params have it; a config class whose values are required has fewer."""
    try:
        plain = type(identity.config)()
    except ValueError:
        return {}
    return {f"{contract.CONFIG_PREFIX}{name}": str(value) for name, value in flatten(plain).items()}

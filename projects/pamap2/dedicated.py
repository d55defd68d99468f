"""Runs trained on some modalities only: what a model that bears missing ones has to be compared with."""

from collections.abc import Sequence

import labtrail as lt
from projects.pamap2.config import ModelConfig, Pamap2Config
from projects.pamap2.inputs import NAMES
from projects.pamap2.judged import SUBSETS

FIND = "find"


def resolve_dedicated(run_id: str, words: Sequence[str]) -> tuple[str, ...]:
    """Ids of the dedicated runs, one for each subset of modalities that has one.

    Args:
        run_id: the run that they stand beside.
        words: run ids; or ``find``, for the newest run of each subset that differs from it in nothing but
            ``model.modalities`` and ``model.missing``.

    Raises:
        QueryError: a run that differs in more, or none found.
    """
    judged_config = lt.run_config(run_id, Pamap2Config)
    if tuple(words) != (FIND,):
        run_ids = [str(lt.find_run(word, "pamap2")["run_id"]) for word in words]
        for dedicated_id in run_ids:
            if _comparable(lt.run_config(dedicated_id, Pamap2Config)) != _comparable(judged_config):
                raise lt.QueryError(
                    f"dedicated: run {dedicated_id} differs from {run_id} in more than model.modalities"
                )
    else:
        same = {
            "seed": judged_config.seed,
            "split.protocol": judged_config.split.protocol,
            "model.fusion": judged_config.model.fusion,
        }
        candidates = lt.Query("pamap2").configured({**same, "model.missing": "none"}).runs()["run_id"]
        same_data = lt.data_digests(run_id)
        run_ids = [
            str(candidate)
            for candidate in candidates
            if lt.data_digests(candidate) == same_data
            and _comparable(lt.run_config(str(candidate), Pamap2Config)) == _comparable(judged_config)
        ]
        if not run_ids:
            raise lt.QueryError(
                f"dedicated: no finished run differs from {run_id} in model.modalities only; train some with "
                "-P model.missing=none -P model.modalities=hand,chest and the other keys as they are there"
            )
    newest = {_subset(lt.run_config(run_id, Pamap2Config)): run_id for run_id in run_ids}
    return tuple(newest[subset] for subset in SUBSETS if subset in newest)


def dedicated_scores(run_ids: Sequence[str]) -> dict[tuple[bool, ...], tuple[str, float]]:
    """Subset of modalities -> id and test macro F1 of the run that reads nothing else."""
    runs = lt.Query("pamap2").only(run_ids).runs()
    scores = dict(zip(runs["run_id"], runs["test/macro_f1"], strict=True)) if len(runs) else {}
    return {_subset(lt.run_config(run_id, Pamap2Config)): (run_id, float(scores[run_id])) for run_id in run_ids}


def _subset(config: Pamap2Config) -> tuple[bool, ...]:
    return tuple(name in config.model.modalities for name in NAMES)


def _comparable(config: Pamap2Config) -> Pamap2Config:
    """The config without what a dedicated model has of its own."""
    defaults = {name: ModelConfig.model_fields[name].default for name in ("modalities", "missing", "missing_rate")}
    return config.model_copy(update={"model": config.model.model_copy(update=defaults)})

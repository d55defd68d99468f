"""The task pamap2-analysis: finished runs side by side, by protocol, modality, class, subject and place in a bout."""

import logging
from collections.abc import Generator, Sequence
from typing import Any

import pandas as pd

import labtrail as lt
from projects.pamap2 import charts, comparison
from projects.pamap2.config import AnalysisConfig, Pamap2Config
from projects.pamap2.evidence import Evidence, collect
from projects.pamap2.judged import judged_sources, open_run

# What tells settings apart even where all runs agree on it, and what is not a part of a setting.
_NAMED = ("cfg.model.fusion", "cfg.model.missing")
_APART = ("cfg.seed", "cfg.split.protocol", "cfg.data.folder")

_log = logging.getLogger("labtrail")


def resolve(config: AnalysisConfig) -> AnalysisConfig:
    """The config with the runs' ids written out: those on the data of the newest that read all modalities.

    Raises:
        QueryError: there is none.
    """
    run_ids = lt.find_runs(config.runs, "pamap2")
    newest = lt.data_digests(run_ids[-1])
    run_ids = list(lt.newest_of_each(lt.Query("pamap2").only(run_ids).runs())["run_id"])
    fit = [
        run_id
        for run_id in run_ids
        if lt.data_digests(run_id) == newest and not lt.run_config(run_id, Pamap2Config).model.dedicated
    ]
    if not fit:
        raise lt.QueryError(
            f"runs {config.runs!r}: none on the data of the newest reads all modalities; train one first"
        )
    if len(fit) < len(run_ids):
        _log.info("%d runs; left out: %d on other data or on some modalities only", len(fit), len(run_ids) - len(fit))
    return config.model_copy(update={"runs": ",".join(fit)})


def sources(config: AnalysisConfig) -> Sequence[lt.DataSource]:
    """The data set, and the weights of every fold of every run."""
    return judged_sources([open_run(word) for word in config.runs.split(",")])


def analyse(config: AnalysisConfig, run: lt.Run) -> Generator[lt.Record]:
    """One Record with all tables and figures."""
    judged = [open_run(word) for word in config.runs.split(",")]
    runs = _runs(config.runs.split(","))
    names = runs.set_index("run_id")[["protocol", "setting", "seed"]]
    evidence = Evidence(*(frame.join(names, on="run_id") for frame in collect(judged, run.accelerator)))
    classes = judged[0].classes.names
    tables = {
        "protocols": comparison.protocol_table(runs),
        "subsets": comparison.subset_table(evidence.subsets),
        "ablation": comparison.ablation_table(evidence.subsets),
        "shares": comparison.share_table(evidence.windows, classes),
        "subjects": comparison.subject_table(evidence.windows),
        "position": comparison.position_table(evidence.windows),
    }
    figures = charts.figures_of(tables, evidence.windows, classes)
    tables["subsets"] = _flat(tables["subsets"])
    files: dict[str, Any] = {f"tables/{name}.csv": table for name, table in {**tables, "runs": runs}.items()}
    yield lt.Record(0, _summary(tables), files | {f"figures/{name}.png": figure for name, figure in figures.items()})


def _runs(run_ids: Sequence[str]) -> pd.DataFrame:
    """The runs' rows, with columns protocol, setting and seed."""
    runs = lt.Query("pamap2").only(run_ids).runs()
    keys = [*_NAMED, *(key for key in lt.varying(runs, _APART) if key not in _NAMED)]
    protocol, seed = runs["cfg.split.protocol"], runs["cfg.seed"].astype(int)
    return runs.assign(protocol=protocol, setting=lt.group_names(runs, keys), seed=seed)


def _flat(subsets: pd.DataFrame) -> pd.DataFrame:
    """The subset table in long form, as a CSV file can hold it."""
    return subsets.stack(["protocol", "setting"], future_stack=True).rename("macro_f1").dropna().reset_index()


def _summary(tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    protocols = tables["protocols"]
    by_setting = tables["subsets"].groupby(["protocol", "setting"])["macro_f1"].mean()
    return {
        "analysis/runs": float(protocols["seeds"].sum()),
        "analysis/settings": float(len(protocols)),
        "analysis/best_macro_f1": float(protocols["macro_f1"].max()),
        "analysis/best_mean_of_subsets": float(by_setting.max()),
    }

"""The task distill-analysis: finished runs with alpha as the independent variable, in tables, figures and words."""

import logging
from collections.abc import Generator, Sequence
from pathlib import Path

import pandas as pd

import labtrail as lt
from projects.distill import charts, comparison
from projects.distill.config import AnalysisConfig
from projects.distill.evaluate import FEATURES
from projects.distill.evidence import collect

_SIGNIFICANT = 0.05

_log = logging.getLogger("labtrail")


def resolve(config: AnalysisConfig) -> AnalysisConfig:
    """The config with the runs' ids written out.

    Raises:
        QueryError: there is none.
    """
    run_ids = lt.find_runs(config.runs, "distill")
    if config.campaign:
        cells = _cells(config.campaign)
        run_ids = [run_id for run_id in run_ids if run_id in cells]
    whole = [
        run_id for run_id in run_ids if Path(FEATURES).name in lt.artifact_names(run_id, str(Path(FEATURES).parent))
    ]
    if len(whole) < len(run_ids):
        _log.info(
            "%d runs; left out: %d without %s, of another version", len(whole), len(run_ids) - len(whole), FEATURES
        )
    if not whole:
        raise lt.QueryError(f"campaign {config.campaign!r}: no finished distill run of it; start it with -e campaign")
    return config.model_copy(update={"runs": ",".join(whole)})


def _cells(campaign: str) -> set[str]:
    """The runs of a campaign: those of its table, which also names runs that it found done, and those it has tagged."""
    run_ids = set(lt.Query("distill").campaign(campaign).runs()["run_id"])
    rounds = lt.Query("campaign").configured({"name": campaign}).ended("FINISHED", "FAILED").with_archived().runs()
    for run_id in rounds["run_id"]:
        if "cells.csv" in lt.artifact_names(run_id, "tables"):
            run_ids |= set(pd.read_csv(lt.artifact(run_id, "tables/cells.csv"))["run_id"].dropna())
    return run_ids


def sources(config: AnalysisConfig) -> Sequence[lt.DataSource]:
    """The features of every run, and of the teachers beside them."""
    ids = config.runs.split(",")
    teachers = lt.Query("distill").only(ids).runs()["cfg.teacher"]
    return [
        lt.artifact_source(run_id, FEATURES, "features", "features")
        for run_id in dict.fromkeys([*ids, *(run_id for run_id in teachers if run_id)])
    ]


def analyse(config: AnalysisConfig, _run: lt.Run) -> Generator[lt.Record]:
    """One Record with all tables, figures and findings."""
    runs = collect(config.runs.split(","))
    accuracy, noise = comparison.accuracy_table(runs), comparison.noise_table(runs)
    measures = comparison.measure_table(runs)
    tables = {"runs": runs, "accuracy": accuracy, "noise": noise, "measures": measures}
    figures = charts.figures_of(runs, accuracy, measures)
    yield lt.Record(
        0,
        {"analysis/runs": float(len(runs)), "analysis/cells": float(len(accuracy))},
        {
            **{f"tables/{name}.csv": table for name, table in tables.items()},
            **{f"figures/{name}.png": figure for name, figure in figures.items()},
            "findings.md": findings(accuracy, noise),
        },
    )


def findings(accuracy: pd.DataFrame, noise: pd.DataFrame) -> str:
    """What the tables say in words, with what so few seeds cannot tell.

    Args:
        accuracy, noise: as ``comparison`` makes them.
    """
    lines = ["# Findings", ""]
    for (data, recipe), group in lt.grouped(accuracy, ["data", "recipe"]):
        lines += [f"## {data}{f', {recipe}' if recipe else ''}", ""]
        baseline = group[group["method"] == "none"]
        if len(baseline):
            first = baseline.iloc[0]
            lines.append(f"- Baseline: {first['accuracy']:.4f} test accuracy, mean of {first['seeds']} seeds.")
        floor = noise[(noise["data"] == data) & (noise["recipe"] == recipe) & (noise["measure"] == "accuracy")]
        if len(floor):
            spread = floor.iloc[0]
            lines.append(
                f"- Its seeds differ by a standard deviation of {spread['deviation']:.4f}. If differences vary as "
                f"much, {spread['seeds']} paired seeds find one of {spread['detectable_difference']:.4f} in 4 of 5 "
                "cases; smaller ones are lost in the noise."
            )
        for name in ("baseline", "control"):
            lines += _against(group, name)
        lines.append("")
    return "\n".join(lines)


def _against(arms: pd.DataFrame, name: str) -> list[str]:
    if f"gain_{name}" not in arms:
        return []
    known = arms[arms[f"gain_{name}"].notna() & ~arms["method"].isin(["none", "control"])]
    if not len(known):
        return []
    best = known.loc[known[f"gain_{name}"].idxmax()]
    clear = known[known[f"p_{name}_holm"] < _SIGNIFICANT]
    names = ", ".join(f"{row['arm']} at {row['alpha']:g}" for _, row in clear.iterrows()) or "none"
    return [
        f"- Against the {name}, largest gain: {best['arm']} at alpha {best['alpha']:g}, "
        f"{best[f'gain_{name}']:+.4f} (95 % over seeds {best[f'gain_{name}_low']:+.4f} to "
        f"{best[f'gain_{name}_high']:+.4f}; over test images {best[f'gain_{name}_images_low']:+.4f} to "
        f"{best[f'gain_{name}_images_high']:+.4f}). Different after Holm's correction: {names}."
    ]

"""Where to look in the MLflow UI: permalinks, printed and written on the experiments' pages."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from labtrail.errors import QueryError
from labtrail.query.query import Query
from labtrail.report.config import ReportConfig
from labtrail.report.gather import ReportData, gather
from labtrail.running.run_status import experiment_notes, note_experiment
from labtrail.store import contract, ui_links

# What lies between is ours; what people wrote around it stays.
_BEGIN, _END = "<!-- labtrail -->", "<!-- /labtrail -->"
_OURS = re.compile(f"{_BEGIN}.*?{_END}", flags=re.DOTALL)
_MOST_COMPARED = 20


class Place(NamedTuple):
    """One link.

    Attributes:
        experiment: name of the experiment that it belongs to.
        words: what it shows.
        link: the address.
    """

    experiment: str
    words: str
    link: str


def places(base: str, experiments: dict[str, str]) -> list[Place]:
    """Every experiment's charts, and where it has them its newest campaign, the best of its groups, its newest study.

    Args:
        base: address of the UI.
        experiments: name -> id.
    """
    runs = Query().ended(*contract.ANY_END).runs()
    links = []
    for name, experiment_id in experiments.items():
        links.append(Place(name, "all runs as charts", ui_links.experiment_chart(base, experiment_id)))
        experiment_runs = runs[runs["experiment_id"] == experiment_id]
        links += [Place(name, words, link) for words, link in _newest(base, experiment_id, experiment_runs)]
    return links


def _newest(base: str, experiment_id: str, runs: pd.DataFrame) -> list[tuple[str, str]]:
    links = []
    if campaign := _last(runs, contract.CAMPAIGN):
        condition = f"tags.`{contract.CAMPAIGN}` = {ui_links.quoted(campaign)}"
        links.append((f"campaign {campaign} as charts", ui_links.filtered(base, experiment_id, condition)))
        if best := _best_of_groups(campaign):
            words = f"campaign {campaign}, the best run of each of its {len(best)} best groups"
            links.append((words, ui_links.compare(base, [experiment_id], best)))
    if study := _last(runs, contract.STUDY):
        condition = f"tags.`{contract.STUDY}` = {ui_links.quoted(study)}"
        links.append((f"trials of study {study}", ui_links.filtered(base, experiment_id, condition)))
    return links


def _last(runs: pd.DataFrame, tag: str) -> str:
    """The tag's value on the run that was started last of those that have one."""
    if tag not in runs or not runs[tag].notna().any():
        return ""
    return str(runs[runs[tag].notna()].sort_values("started")[tag].iloc[-1])


def _best_of_groups(campaign: str) -> Sequence[str]:
    try:
        data: ReportData = gather(ReportConfig(campaign=campaign))
    except QueryError:
        return []
    ranked = data.runs.dropna(subset=[data.ranking.metric])
    ranked = ranked.sort_values(data.ranking.metric, ascending=not data.ranking.larger, kind="stable")
    return list(ranked.drop_duplicates("group")["run_id"].head(_MOST_COMPARED))


def write_notes(links: Sequence[Place], experiments: dict[str, str]) -> None:
    """Puts the links on the page of each experiment, beside what people wrote there."""
    for name, experiment_id in experiments.items():
        lines = [f"- [{place.words}]({place.link})" for place in links if place.experiment == name]
        before = experiment_notes(experiment_id)
        text = _beside(before, "\n".join([_BEGIN, "**Where to look**", "", *lines, _END]))
        if text != before:
            note_experiment(experiment_id, text)


def _beside(before: str, ours: str) -> str:
    """Text with our part renewed, or added below it."""
    old = _OURS.search(before)
    return f"{before}\n\n{ours}".strip() if old is None else before[: old.start()] + ours + before[old.end() :]

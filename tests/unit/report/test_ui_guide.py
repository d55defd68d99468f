"""Permalinks lead to what is newest; on an experiment's page they stand beside what people wrote."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from labtrail.query.query import Query
from labtrail.report.ui_guide import places, write_notes
from labtrail.store import connection, contract
from tests.invented import fill

BASE = "http://127.0.0.1:5000"


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return connection.initialise(["distill", "spoter"])


def test_the_newest_campaign_its_best_runs_and_the_newest_study(experiments: dict[str, str]) -> None:
    fill(methods=["none"], alphas=[0.1], seeds=1, campaign="older", failures=0, epochs=2)
    ids = fill(methods=["none", "logit"], alphas=[0.1, 0.5], seeds=2, campaign="newer", epochs=2)
    connection.current_store().set_tag(ids[0], contract.STUDY, "search")
    links = {(place.experiment, place.words): unquote(place.link) for place in places(BASE, experiments)}
    own = f"{BASE}/#/experiments/{experiments['distill']}/runs?compareRunsMode=CHART"
    assert links.pop(("spoter", "all runs as charts")).endswith(f"/{experiments['spoter']}/runs?compareRunsMode=CHART")
    assert links.pop(("distill", "all runs as charts")) == own
    assert (
        links.pop(("distill", "campaign newer as charts")) == f"{own}&searchFilter=tags.`labtrail.campaign` = 'newer'"
    )
    assert links.pop(("distill", "trials of study search")) == f"{own}&searchFilter=tags.`labtrail.study` = 'search'"
    ((_, words), link) = links.popitem()
    assert words == "campaign newer, the best run of each of its 3 best groups"
    runs = Query().only(re.findall(r"[0-9a-f]{32}", link)).runs()
    everything = Query("distill").campaign("newer").runs()
    assert len(runs) == 3
    best = everything.groupby(["cfg.method", "cfg.alpha"])["test/accuracy"].max()
    assert sorted(runs["test/accuracy"]) == sorted(best)
    assert links == {}


def test_notes_stand_beside_what_people_wrote(experiments: dict[str, str]) -> None:
    client, experiment = connection.current_store(), experiments["distill"]

    def note() -> str:
        return client.get_experiment(experiment).tags.get(contract.NOTE, "")

    write_notes(places(BASE, experiments), experiments)
    assert note().startswith("<!-- labtrail -->")
    client.set_experiment_tag(experiment, contract.NOTE, f"Mine, above.\n\n{note()}\n\nMine, below.")
    fill(methods=["none"], alphas=[0.1], seeds=1, failures=0, epochs=2)
    write_notes(places(BASE, experiments), experiments)
    assert note().startswith("Mine, above.\n\n<!-- labtrail -->")
    assert note().endswith("<!-- /labtrail -->\n\nMine, below.")
    assert note().count("<!-- labtrail -->") == 1
    assert "campaign round as charts" in note()
    before = note()
    write_notes(places(BASE, experiments), experiments)
    assert note() == before

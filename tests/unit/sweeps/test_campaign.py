"""Campaigns, studies and members without processes: what is refused, what waits, what is left open."""

import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from optuna.trial import TrialState

from labtrail.config import Config, load_config, text_of
from labtrail.errors import ClaimError, ConfigError, DataError, QueryError, Superseded
from labtrail.record import Record
from labtrail.running.claim import _try_lock
from labtrail.running.execute import Outcome
from labtrail.running.fence import Fence
from labtrail.running.members import Members
from labtrail.running.run import Run
from labtrail.running.signals import Interrupted
from labtrail.running.task import Task
from labtrail.store import connection
from labtrail.sweeps import campaign as campaigns
from labtrail.sweeps import study as studies
from labtrail.sweeps.campaign import Campaign
from labtrail.sweeps.cell_state import WorkRuns
from labtrail.sweeps.cells import CampaignConfig, cells_of
from labtrail.sweeps.study import Range, StudyConfig, open_study, reclaim


class ToyConfig(Config):
    """A value, and perhaps another run."""

    x: float = 0.0
    """a value"""
    run: str = ""
    """another run"""
    note: str | None = None
    """may be empty"""


def toy(config: ToyConfig, run: Run) -> Generator[Record]:
    yield Record(0, {"test/x": config.x})


TASK = Task("toy", ToyConfig, toy, Path("toy.yaml"))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    Path("toy.yaml").write_text("seed: 0\n")


def grid(*groups: dict[str, Any]) -> CampaignConfig:
    own = [{"config": "toy.yaml", **group} for group in groups]
    return CampaignConfig.model_validate({"name": "c", "task": "toy", "groups": own})


def test_cells_read_the_one_that_agrees_with_them() -> None:
    config = grid(
        {"name": "first", "grid": {"seed": [0, 1]}},
        {"name": "second", "reads": {"run": "first"}, "grid": {"x": [0.1, 0.2], "seed": [0, 1]}},
    )
    found = cells_of(config, TASK)
    assert [cell.needs["run"].name for cell in found[2:]] == ["first-seed=0", "first-seed=1"] * 2
    found[0].run_id = "f" * 32
    assert found[2].options == ["--config", "toy.yaml", "--x=0.1", "--seed=0", f"--run={'f' * 32}"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"name": "a", "grid": {"x": [0.5, 0.50]}}], "a-x=0.5: there twice"),
        ([{"name": "a", "grid": {"y": [1]}}], "a-y=1: --y: unknown key"),
        ([{"name": "a", "grid": {"x": [1, 2]}}, {"name": "b", "reads": {"run": "a"}}], "where 2 cells agree with it"),
    ],
)
def test_bad_grids_are_refused_before_anything_starts(groups: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cells_of(grid(*groups), TASK)
    assert message in str(caught.value)


def test_a_group_can_only_read_earlier_ones() -> None:
    with pytest.raises(ValueError, match="reads b, which is not an earlier group"):
        grid({"name": "a", "reads": {"run": "b"}}, {"name": "b"})


def test_cells_behind_a_failed_one_fail_too_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_data(config: ToyConfig) -> list[Any]:
        if config.x == 1:
            raise DataError("nothing there; fetch it first")
        return []

    monkeypatch.setattr(campaigns, "runs_by_key", lambda _task, _codes: WorkRuns({}, {}))
    task = Task("toy", ToyConfig, toy, Path("toy.yaml"), sources=no_data)
    config = grid({"name": "a", "values": {"x": 1}}, {"name": "b", "reads": {"run": "a"}}, {"name": "c"})
    campaign = Campaign(config, task, ("python",))
    campaign.refresh()
    assert [(cell.state, cell.problem) for cell in campaign.cells] == [
        ("failed", "nothing there; fetch it first"),
        ("failed", "needs a, which failed"),
        ("ready", ""),
    ]


def test_values_come_back_as_they_were() -> None:
    assert [text_of(value) for value in (True, None, 0.5, 3)] == ["true", "null", "0.5", "3"]
    assert load_config(ToyConfig, Path("toy.yaml"), [("note", text_of(None))]).note is None


def search(**changes: Any) -> StudyConfig:
    space = {"x": Range(low=0.0, high=1.0)}
    values = {"name": "s", "task": "toy", "config": "toy.yaml", "space": space, "metric": "test/x", "sampler": "random"}
    return StudyConfig.model_validate(values | changes)


def ask(study: Any, config: StudyConfig) -> Any:
    return study.ask({key: one.distribution for key, one in config.space.items()})


def test_a_worker_that_begins_anew_draws_on() -> None:
    config, drawn = search(), []
    for _ in range(3):
        study = open_study(config)
        trial = ask(study, config)
        drawn.append(trial.params["x"])
        study.tell(trial, 0.0)
    assert len(set(drawn)) == 3


def test_another_base_is_another_study_and_more_trials_are_the_same() -> None:
    name = search().full_name
    assert search(trials=99).full_name == name
    Path("toy.yaml").write_text("seed: 1\n")
    assert search().full_name != name


def test_a_lost_trial_is_asked_for_again_with_its_values() -> None:
    config = search()
    study = open_study(config)
    lost = ask(study, config)
    reclaim(study, config)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert studies.ended_trials(study) == 0
    assert ask(study, config).params == lost.params


def test_a_live_trial_and_one_of_another_folder_are_left_alone() -> None:
    config = search()
    study = open_study(config)
    live, elsewhere = ask(study, config), ask(study, config)
    elsewhere.set_user_attr("place", "another folder")
    with studies._trial_lock(config, live.number):
        reclaim(study, config)
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.RUNNING]


def test_a_signal_leaves_the_trial_open_and_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    config = search()
    monkeypatch.setattr(studies, "run_task", lambda *_: Outcome(128 + signal.SIGTERM, "r"))
    with pytest.raises(Interrupted):
        studies.work(config, TASK, "", 0)
    assert [trial.state for trial in open_study(config).trials] == [TrialState.RUNNING]


def test_what_no_other_values_would_mend_ends_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Outcome:
        raise QueryError("no teacher")

    monkeypatch.setattr(studies, "run_task", refuse)
    with pytest.raises(QueryError, match="no teacher"):
        studies.work(search(), TASK, "", 0)
    assert studies.ended_trials(open_study(search())) == 0


def test_members_hold_their_runs_until_they_end() -> None:
    connection.initialise(["toy"])
    configs = [ToyConfig(x=1.0), ToyConfig(x=2.0)]
    members = Members(TASK, configs, Accelerator(cpu=True), {})
    ids = [session.run_id for session in members.at_work]
    assert [_try_lock(run_id) for run_id in ids] == [None, None]
    with pytest.raises(ClaimError, match="is at work in another process"):
        Members(TASK, [ToyConfig(x=2.0), ToyConfig(x=3.0)], Accelerator(cpu=True), {})
    members.log_record(0, Record(0, {"test/x": 1.0}))
    members.finish(0)
    members.close("KILLED", "enough")
    assert all(_try_lock(run_id) is not None for run_id in ids)
    statuses = {run_id: connection.current_store().get_run(run_id).info.status for run_id in ids}
    assert list(statuses.values()) == ["FINISHED", "KILLED"]


def test_a_member_that_a_later_attempt_has_taken_over_writes_no_more() -> None:
    """A bundle whose node was taken for lost may still compute; each of its members has a fence as a single run has."""
    connection.initialise(["toy"])
    members = Members(TASK, [ToyConfig(x=1.0), ToyConfig(x=2.0)], Accelerator(cpu=True), {})
    taken_over, other = members.at_work
    Fence(taken_over.run_id, token=7).activate()
    with pytest.raises(Superseded, match="attempt 7 has taken it over"):
        members.log_record(0, Record(0, {"test/x": 1.0}))
    members.log_record(1, Record(0, {"test/x": 2.0}))
    members.finish(1)
    members.close("KILLED", "enough")
    client = connection.current_store()
    assert client.get_run(taken_over.run_id).info.status == "RUNNING"
    assert "test/x" not in client.get_run(taken_over.run_id).data.metrics
    assert client.get_run(other.run_id).info.status == "FINISHED"

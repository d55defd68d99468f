"""Work that other code has done or begun: a person is asked, in a status and a line, and nothing is run."""

import json

import pandas as pd
import pytest

from labtrail.store import contract
from tests.workspace import Workspace, kill_tree, wait_for_line

COMMAND = ("labtrail", "run", "spoter", "--config", "tiny.yaml", "--train.milestones", "[]")
SHORT = (*COMMAND, "--train.epochs", "1")
TRAIN, ANY = "projects/spoter/train.py", contract.ANY_END
BETAS = ("betas=(0.9, 0.98)", "betas=(0.9, 0.95)")
COMMENT = ("# As published", "# Otherwise")


def edit(workspace: Workspace, old: str, new: str, name: str = TRAIN) -> None:
    path = workspace.folder / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def runs(workspace: Workspace) -> pd.DataFrame:
    return workspace.query(statuses=ANY).runs().sort_values("started", ignore_index=True)


@pytest.fixture
def done(workspace: Workspace) -> Workspace:
    """A lab in which a run of an epoch has finished."""
    first = workspace.run(*SHORT)
    assert first.returncode == 0, first.stderr
    return workspace


def test_finished_work_of_other_code_is_a_question(done: Workspace) -> None:
    (run,) = runs(done).to_dict("records")
    kept = json.loads((done.artifacts(run["run_id"]) / contract.code_file(run[contract.CODE])).read_text())
    assert "projects.spoter.train.make_optimizer" in kept["definitions"]

    edit(done, '    """One pass over the train split;', '    # Nothing but a remark.\n    """One pass, and more;')
    same = done.run(*SHORT)
    assert same.returncode == 0
    assert same.stderr.strip().endswith(f"run {run['run_id']} has finished this work; --again runs it again")

    edit(done, *BETAS)
    asked = done.run(*SHORT)
    assert asked.returncode == 3
    (line,) = [line for line in asked.stderr.splitlines() if line.startswith("error: ")]
    assert f"run {run['run_id']} has finished this config and data with other code" in line
    assert "changed projects.spoter.train.make_optimizer; nothing was run" in line
    assert "--again" in line
    assert "--keep" in line
    assert len(runs(done)) == 1

    again = done.run(*SHORT, "--again")
    assert again.returncode == 0, again.stderr
    assert runs(done)[contract.CODE].nunique() == 2
    # The newest that finished is of the present code.
    assert done.run(*SHORT).returncode == 0
    # Whoever takes the edit back has the first run again.
    edit(done, *reversed(BETAS))
    back = done.run(*SHORT)
    assert back.returncode == 0
    assert f"run {run['run_id']} has finished this work" in back.stderr


def test_however_it_is_started_it_is_the_same_code(workspace: Workspace) -> None:
    first = workspace.cold(*SHORT)
    assert first.returncode == 0, first.stderr
    for words in (("python", "-m", "labtrail.console", "run", "spoter"), ("python", "-m", "projects.spoter")):
        again = workspace.run(*words, *SHORT[3:])
        assert again.returncode == 0, again.stderr
        assert "has finished this work; --again" in again.stderr
    (run,) = runs(workspace).to_dict("records")
    facts = json.loads((workspace.artifacts(run["run_id"]) / contract.SOURCE / "source.json").read_text())
    assert set(facts["places"]) == {"labtrail", "projects"}


def test_keep_is_said_once(done: Workspace) -> None:
    edit(done, *BETAS)
    kept = done.run(*SHORT, "--keep")
    assert kept.returncode == 0, kept.stderr
    assert "counts as one of the present code from now on" in kept.stderr
    later = done.run(*SHORT)
    assert later.returncode == 0
    assert "already done" in later.stderr
    assert len(runs(done)) == 1
    # A third code is another question.
    edit(done, BETAS[1], "betas=(0.9, 0.5)")
    assert done.run(*SHORT).returncode == 3


def killed(workspace: Workspace) -> str:
    with workspace.started(*COMMAND) as process:
        wait_for_line(process, "step 1 ")
        kill_tree(process.pid)
        process.wait(timeout=60)
    return runs(workspace)["run_id"].item()


def test_other_code_does_not_continue_a_run_in_silence(workspace: Workspace) -> None:
    run_id = killed(workspace)
    edit(workspace, *BETAS)
    asked = workspace.run(*COMMAND)
    assert asked.returncode == 3
    assert f"run {run_id} (RUNNING) would be continued by other code" in asked.stderr
    assert "changed projects.spoter.train.make_optimizer" in asked.stderr

    kept = workspace.run(*COMMAND, "--keep")
    assert kept.returncode == 0, kept.stderr
    (run,) = runs(workspace).to_dict("records")
    (first, old), (second, new) = json.loads(run[contract.CODES])
    assert (run["run_id"], run["status"], first, new) == (run_id, "FINISHED", 0, run[contract.CODE])
    assert second in (1, 2)
    assert old != new
    names = {path.name for path in (workspace.artifacts(run_id) / contract.SOURCE).iterdir()}
    assert names >= {f"code-{old}.json", f"code-{new}.json", "code.tar.gz", "attempt-2"}
    copies = [workspace.artifacts(run_id) / contract.source_folder(attempt) / "code.tar.gz" for attempt in (1, 2)]
    assert copies[0].read_bytes() != copies[1].read_bytes()


def test_a_run_goes_on_with_the_code_that_began_it(workspace: Workspace) -> None:
    run_id = killed(workspace)
    edit(workspace, *BETAS)
    pinned = workspace.run(*COMMAND, "--pinned")
    assert pinned.returncode == 0, pinned.stderr
    assert "goes on with the code that began it" in pinned.stderr
    (run,) = runs(workspace).to_dict("records")
    assert (run["run_id"], run["status"], run[contract.ATTEMPTS]) == (run_id, "FINISHED", "2")
    assert contract.CODES not in run
    assert len({path.name for path in (workspace.artifacts(run_id) / contract.SOURCE).glob("code-*")}) == 1
    # Its code is still not the present one.
    assert workspace.run(*COMMAND).returncode == 3


def test_again_leaves_what_other_code_has_begun(workspace: Workspace) -> None:
    run_id = killed(workspace)
    edit(workspace, *BETAS)
    again = workspace.run(*COMMAND, "--again")
    assert again.returncode == 0, again.stderr
    assert "step 0 " in again.stderr
    assert runs(workspace).set_index("run_id")["status"].drop(run_id).tolist() == ["FINISHED"]


@pytest.mark.slow
def test_two_processes_are_not_started_for_a_question(workspace: Workspace) -> None:
    assert workspace.run(*SHORT, "--processes", "2").returncode == 0
    edit(workspace, *BETAS)
    asked = workspace.run(*SHORT, "--processes", "2")
    assert asked.returncode == 3, asked.stderr
    assert "torch.distributed" not in asked.stderr


def test_mlflow_run_ends_with_the_question(done: Workspace) -> None:
    edit(done, *BETAS)
    under = done.mlflow_run("spoter", "-P", "config=tiny.yaml", "-P", "train.milestones=[]", "-P", "train.epochs=1")
    assert under.returncode != 0
    experiments = [experiment.experiment_id for experiment in done.client().search_experiments()]
    (refused,) = [run for run in done.client().search_runs(experiments) if contract.KEY not in run.data.tags]
    assert refused.data.tags[contract.EXIT_STATUS] == "3"
    assert "with other code" in refused.data.tags[contract.STATUS_REASON]
    assert contract.SAME_AS not in refused.data.tags


def test_a_run_from_before_code_was_kept_counts_as_it_did(done: Workspace) -> None:
    run_id = runs(done)["run_id"].item()
    done.client().delete_tag(run_id, contract.CODE)
    edit(done, *BETAS)
    used = done.run(*SHORT)
    assert used.returncode == 0
    assert f"run {run_id} has finished this work (by which code is unknown" in used.stderr


def test_a_digest_of_an_earlier_rule_is_counted_again_from_the_kept_source(done: Workspace) -> None:
    (run,) = runs(done).to_dict("records")
    run_id, other = run["run_id"], "0123456789abcdef"
    kept = json.loads((done.artifacts(run_id) / contract.code_file(run[contract.CODE])).read_text())
    earlier = {**kept, "digest": other, "rule": "0", "definitions": {"projects.spoter.train.train": "0" * 16}}
    (done.artifacts(run_id) / contract.code_file(other)).write_text(json.dumps(earlier))
    done.client().set_tag(run_id, contract.CODE, other)

    edit(done, *BETAS)
    asked = done.run(*SHORT)
    assert asked.returncode == 3
    assert "changed projects.spoter.train.make_optimizer; nothing was run" in asked.stderr
    edit(done, *reversed(BETAS))
    for _ in range(2):
        same = done.run(*SHORT)
        assert same.returncode == 0, same.stderr
        assert f"run {run_id} has finished this work" in same.stderr
    assert len(runs(done)) == 1

"""An attempt that was given up but still computes writes no more once the next one has begun."""

from labtrail.running.fence import Fence
from labtrail.store import contract
from tests.workspace import Workspace, wait_for_line

SLOW = "seed: 0\nepochs: 400\npause: 0.3\n"
ANY = ("FINISHED", "FAILED", "KILLED", "RUNNING")


def test_the_later_attempt_takes_over(workspace: Workspace) -> None:
    workspace.write("toy.yaml", SLOW)
    assert workspace.run("mlflow", "experiments", "create", "-n", "toy").returncode == 0
    client = workspace.client()
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    words = ("python", "-m", "tests.toy", "--config", "toy.yaml")
    workspace.variables |= {"MLFLOW_RUN_ID": run_id, contract.TOKEN_VARIABLE: "1"}
    with workspace.started(*words, stdout="one.log") as first:
        wait_for_line(first, "step 2")
        workspace.variables[contract.TOKEN_VARIABLE] = "2"
        with workspace.started(*words, stdout="two.log") as second:
            lines = wait_for_line(first, "attempt 2 has taken it over; attempt 1 writes no more")
            assert first.wait(30) == 1
            written = max((int(line.split()[1]) for line in lines if line.startswith("step")), default=2)
            text = "".join(wait_for_line(second, "step "))
            assert "an earlier attempt is still alive; it is shut out" in text
            first_step = int(next(line for line in text.splitlines() if line.startswith("step")).split()[1])
            # It goes on where the first one stood, and nothing is written twice.
            assert 0 < first_step <= written + 2
            second.terminate()
            second.wait(30)
    steps = [point.step for point in client.get_metric_history(run_id, "train/loss")]
    assert steps == list(range(len(steps)))
    assert client.get_run(run_id).data.tags[contract.STATUS_REASON] == "KILLED: SIGTERM"

    # The first one's job, started once more by mistake, does not even begin.
    workspace.variables[contract.TOKEN_VARIABLE] = "1"
    late = workspace.run(*words)
    assert late.returncode == 1
    assert "attempt 2 has taken it over" in late.stderr


def test_tokens(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not Fence("run", 1).contested
    Fence("run", 1).activate()
    assert Fence("run", 2).contested
    assert not Fence("run", 1).contested
    Fence("run").activate()
    Fence("run").check()

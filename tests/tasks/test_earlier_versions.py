"""What was stored outside goes on to work: scripts, crontab lines and queued jobs of earlier versions."""

import json

import pytest

from tests.workspace import Workspace

ROUND = """
name: small
task: spoter
groups:
  - {name: signs, config: tiny.yaml, values: {train.epochs: 1}, grid: {seed: [0, 1]}}
"""


def test_a_job_that_waited_in_a_queue_begins(workspace: Workspace) -> None:
    """Its script and its file were written by the version before; the script names ``labtrail.batch.job``."""
    asked = {
        "command": [
            "exec",
            "env",
            "PYTHONPATH=src:$PYTHONPATH",
            "python",
            "-m",
            "projects.spoter",
            "--config",
            "tiny.yaml",
            "--train.epochs=1",
            "--seed=3",
        ],
        "folder": str(workspace.folder),
        "variables": {"LABTRAIL_TOKEN": "1", "LABTRAIL_CAMPAIGN": "small"},
    }
    path = workspace.write(".labtrail/jobs/spoter.1.json", json.dumps(asked))
    done = workspace.run("python", "-m", "labtrail.batch.job", str(path))
    assert done.returncode == 0, done.stderr
    (run,) = workspace.query().runs().to_dict("records")
    assert (run["cfg.seed"], run["labtrail.campaign"]) == ("3", "small")


@pytest.mark.parametrize(
    "words",
    [
        ("python", "-m", "labtrail.console", "campaign"),
        ("labtrail", "campaign"),
        ("python", "-m", "projects.campaign"),
    ],
    ids=" ".join,
)
def test_options_of_a_campaign_are_understood(workspace: Workspace, words: tuple[str, ...]) -> None:
    workspace.write("round.yaml", ROUND)
    done = workspace.run(*words, "--config", "round.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2 cells: 2 ready\n")
    assert "labtrail.console run spoter --config tiny.yaml" in done.stdout
    refused = workspace.run(*words, "--config", "round.yaml", "--status")
    assert refused.returncode == 2
    assert "this belongs to a scheduler: name it with --backend (slurm, pbs)" in refused.stderr
    assert workspace.run(*words, "--config", "round.yaml", "--status=false", "--dry-run", "true").returncode == 0


def test_old_names_of_modules_lead_to_the_commands(workspace: Workspace) -> None:
    for words, wanted in (
        (("projects.fetch", "--dataset", "nowhere"), "dataset 'nowhere' is unknown; valid:"),
        (("projects.study", "--config", "absent.yaml"), "absent.yaml: no such config file"),
        (("projects", "--config", "absent.yaml"), "absent.yaml: no such config file"),
        (("labtrail.report", "--config", "absent.yaml"), "absent.yaml: no such config file"),
    ):
        done = workspace.run("python", "-m", *words)
        assert done.returncode == 2, done.stderr
        assert wanted in done.stderr

"""Job scripts: nothing that a user gives is ever read by a shell, and what cannot work is said before."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labtrail.config import load_json
from labtrail.errors import ConfigError
from labtrail.jobs.job import settled
from labtrail.jobs.pbs import Pbs
from labtrail.jobs.scheduler import Job
from labtrail.jobs.script import BatchConfig, check, write_script
from labtrail.jobs.slurm import Slurm
from labtrail.running.provenance.facts import cluster_facts
from labtrail.sweeps.mlflow_backend import words_of
from tests.workspace import REPOSITORY

HOSTILE = (
    "a b",
    "$(touch owned)",
    "`touch owned`",
    "'; touch owned; '",
    '"',
    "\\",
    "a\nb",
    "--x",
    "*",
    "é ☃",
    "{{job}}",
    "",
)


def config(folder: Path, **values: object) -> BatchConfig:
    template = REPOSITORY / "slurm/job.slurm"
    return BatchConfig.model_validate({"template": template, "logs": folder / "logs", **values})


def run_script(folder: Path, command: tuple[str, ...], **values: object) -> subprocess.CompletedProcess[str]:
    job = Job("name", command, {"GIVEN": "$(touch owned)"}, folder / "logs/name.log")
    own = config(folder, setup=(f"export PYTHONPATH={REPOSITORY / 'src'}",), **values)
    script = write_script(job, folder, own, Slurm(), folder / "state")
    variables = {**os.environ, "SLURM_JOB_ID": "1", "SLURMD_NODENAME": "node"}
    return subprocess.run(["bash", script], env=variables, capture_output=True, text=True, check=False)


ECHO = (
    sys.executable,
    "-c",
    "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['GIVEN'], os.getcwd()]))",
)


def test_arguments_arrive_as_they_are(tmp_path: Path) -> None:
    done = run_script(tmp_path, (*ECHO, *HOSTILE))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [list(HOSTILE), "$(touch owned)", str(tmp_path)]
    assert not list(tmp_path.rglob("owned"))


def test_a_folder_with_a_hostile_name(tmp_path: Path) -> None:
    folder = tmp_path / "a 'b' $(touch owned)"
    folder.mkdir()
    assert json.loads(run_script(folder, ECHO).stdout.splitlines()[-1])[2] == str(folder)
    assert not list(tmp_path.rglob("owned"))


@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)))))
def test_values_of_an_entry_point_stay_whole(values: list[str]) -> None:
    class Entry:
        command = 'exec env PYTHONPATH="src:$PYTHONPATH" python -m projects.distill --config {config}'

        class _Config:
            default = "a.yaml"

        parameters = {"config": _Config}  # noqa: RUF012

    params = {f"key.{number}": value for number, value in enumerate(values)}
    words = words_of(Entry, {"config": "b c.yaml", **params})
    run, environment = settled(words, {"PYTHONPATH": "old"})
    assert environment["PYTHONPATH"] == "src:old"
    assert run[:5] == ["python", "-m", "projects.distill", "--config", "b c.yaml"]
    assert run[5:] == [word for name, value in params.items() for word in (f"--{name}", value)]


def test_every_entry_point_is_one_program(tmp_path: Path) -> None:
    from mlflow.projects.utils import load_project

    for entry in load_project(str(REPOSITORY))._entry_points.values():
        words, environment = settled(words_of(entry, {"dataset": "x"}), {})
        assert words[:2] == ["python", "-m"]
        assert environment["PYTHONPATH"].startswith("src:")


def test_directives() -> None:
    own = BatchConfig.model_validate(
        {
            "template": "x",
            "resources": {"gres": "gpu:1", "mem": "8G", "exclusive": True, "overcommit": False, "nice": 5},
        }
    )
    assert Slurm().directives(own.asked) == [
        "#SBATCH --gres=gpu:1",
        "#SBATCH --mem=8G",
        "#SBATCH --exclusive",
        "#SBATCH --nice=5",
    ]
    assert Pbs().directives({"select": "1:ncpus=4", "q": "long"}) == ["#PBS -l select=1:ncpus=4", "#PBS -q long"]


@pytest.mark.parametrize("name", ["cpu", "gpu", "pbs"])
def test_configs_of_the_repository_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    own = load_json(BatchConfig, Path(f"slurm/{name}.json"))
    assert own.template.is_file()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("template: x\n", "not valid JSON: Expecting value"),
        ('{"template": "x",}', "not valid JSON"),
        ("[]", "expected keys and values, found a list"),
        ("{}", "template: missing"),
        ('{"template": "x", "resource": {}}', "resource: unknown key (did you mean 'resources'?)"),
        ('{"template": "x", "resources": {"a b": 1}}', "resources.a b"),
        ('{"template": "x", "resources": {"mem": "1\\n#SBATCH --x"}}', "expected one line"),
        ('{"template": "x", "attempts": 0}', "attempts: input should be greater than or equal to 1"),
    ],
)
def test_a_config_that_is_wrong_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "slurm.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_json(BatchConfig, path)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no-such\.json: no such file"):
        load_json(BatchConfig, tmp_path / "no-such.json")
    wrong = tmp_path / "job.slurm"
    wrong.write_text("{{command}}\n")
    (tmp_path / "file").touch()
    bad = config(tmp_path, scratch=str(tmp_path / "file/scratch"))
    for own, names, says in (
        (config(tmp_path, template=tmp_path / "none"), [], r"template: .*none: no such file \(there: .*job\.slurm\)"),
        (config(tmp_path, template=wrong), [], r"\{\{command\}\} is unknown; valid: resources, setup"),
        (bad, [], r"scratch: .*file/scratch: Not a directory; name a folder that you can write to"),
        (config(tmp_path), ["x" * 201], r"job name x+\.\.\.: 201 characters, slurm takes 200"),
    ):
        with pytest.raises(ConfigError, match=says):
            check(own, Slurm(), names)
    check(config(tmp_path, scratch=str(tmp_path / "new")), Slurm(), ["x" * 200])
    assert (tmp_path / "new").is_dir()


def test_facts_of_a_job() -> None:
    assert cluster_facts({"PATH": "x"}) == {}
    found = cluster_facts(
        {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NAME": "kd",
            "SLURM_JOB_PARTITION": "gpu",
            "SLURMD_NODENAME": "n1",
            "SLURM_CPUS_ON_NODE": "4",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "SLURM_JOB_START_TIME": "100",
            "SLURM_JOB_END_TIME": "400",
        }
    )
    assert found == {
        "scheduler.name": "slurm",
        "scheduler.job_id": "7",
        "scheduler.job_name": "kd",
        "scheduler.partition": "gpu",
        "scheduler.node": "n1",
        "scheduler.cpus": "4",
        "scheduler.gpus": "2",
        "scheduler.limit_s": "300",
    }
    assert cluster_facts({"PBS_JOBID": "17.server", "PBS_QUEUE": "workq"})["scheduler.name"] == "pbs"

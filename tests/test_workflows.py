"""The hosted workflows name what exists: make targets, entry points, configs; their shell parses."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load(path.read_text())["jobs"].values()


def commands() -> Iterator[tuple[str, str]]:
    for path in WORKFLOWS:
        for job in jobs(path):
            targets = job.get("strategy", {}).get("matrix", {}).get("target", [""])
            for step in job["steps"]:
                for target in targets:
                    if "run" in step:
                        yield path.name, step["run"].replace("${{ matrix.target }}", target)


def test_both_workflows_are_there() -> None:
    assert [path.name for path in WORKFLOWS] == ["checks.yml", "fusion_sweep.yml"]


@pytest.mark.parametrize(("workflow", "command"), list(commands()))
def test_commands_parse_and_name_what_exists(workflow: str, command: str) -> None:
    assert "${{" not in command, "an expression inside a shell line is how scripts are injected: use env"
    done = subprocess.run(["bash", "-n"], input=command, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\S+)", command):
        assert re.search(rf"^({re.escape(target)}|\$\(VENV\)/{target.rpartition('/')[2]}):", makefile, re.MULTILINE)
    entry_points = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    for name in re.findall(r"-e (\S+)", command):
        assert name in entry_points
    for name in re.findall(r"config=(\S+)", command):
        assert (ROOT / name).is_file()


def test_one_leg_of_the_sweep_judges() -> None:
    (job,) = jobs(ROOT / ".github/workflows/fusion_sweep.yml")
    matrix = job["strategy"]["matrix"]
    assert [leg["fusion"] for leg in matrix["include"] if leg["evaluate"]] == ["hybrid"]
    assert job["timeout-minutes"] <= 15

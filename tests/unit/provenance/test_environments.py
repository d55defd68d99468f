"""The packages of a run beside the present ones: only under the same Python, and whole or not at all."""

import platform
import subprocess
from pathlib import Path

import pytest

from labtrail.errors import DataError
from labtrail.running.provenance.environments import installed
from labtrail.running.provenance.machine import differences, environment


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What is editable is part of the kept source, and is not asked of an index.
    facts = {"python": platform.python_version(), "packages": {"labtrail": "0.1.0 (editable)"}}
    python = installed(facts)
    done = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == tmp_path / ".labtrail/environments"
    before = python.lstat().st_mtime_ns
    assert installed(facts) == python
    assert python.lstat().st_mtime_ns == before


def test_another_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"the run had Python 2\.7\.18, this is 3"):
        installed({"python": "2.7.18", "packages": {}})
    assert not (tmp_path / ".labtrail").exists()


def test_what_differs_between_two_machines() -> None:
    then = environment()
    assert differences(then, then | {"variables": {"OMP_NUM_THREADS": "7"}}) == ({}, {})
    now = then | {"threads": 99, "variables": {"OMP_NUM_THREADS": "99"}, "packages": then["packages"] | {"torch": "0"}}
    packages, facts = differences(then, now)
    assert packages == {"torch": f"{then['packages']['torch']} -> 0"}
    assert facts.keys() == {"threads", "variables"}

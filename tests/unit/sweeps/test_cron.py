"""The crontab of a user: one line of ours for each campaign, all others as they were."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labtrail.errors import LabtrailError
from labtrail.sweeps import cron

# As cron's own: -l prints or says that there is none, - replaces.
CRONTAB = """#!/bin/bash
case "$1" in
  -l) [ -f "$CRONTAB_FILE" ] && cat "$CRONTAB_FILE" || { echo "no crontab for $USER" >&2; exit 1; } ;;
  -) cat > "$CRONTAB_FILE" ;;
esac
"""
OTHERS = ["# m h dom mon dow command", "0 3 * * * backup --to '%s'", "*/5 * * * * labtrail campaign x"]


@pytest.fixture
def crontab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/crontab"
    program.parent.mkdir()
    program.write_text(CRONTAB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CRONTAB_FILE", str(tmp_path / "lines"))
    return tmp_path / "lines"


def test_on_again_off(crontab: Path) -> None:
    assert not cron.switch_off("one")
    crontab.write_text("".join(f"{line}\n" for line in OTHERS))
    cron.switch_on("one", ["python", "-m", "x"], "/folder", "/log", 10)
    cron.switch_on("two", ["python", "-m", "x"], "/folder", "/log", 10)
    line = cron.switch_on("one", ["python", "-m", "y"], "/folder", "/log", 15)
    lines = crontab.read_text().splitlines()
    assert lines[:3] == OTHERS
    assert lines[3:] == [lines[3], line]
    assert line == "*/15 * * * * cd /folder && python -m y >> /log 2>&1 # labtrail campaign one"
    assert cron.switch_off("one")
    assert cron.switch_off("two")
    assert crontab.read_text().splitlines() == OTHERS


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=255, blacklist_categories=("Cc", "Cs")), min_size=1))
def test_hostile_names_stay_one_word(crontab: Path, text: str) -> None:
    line = cron.switch_on(text, ["printf", "%s", text], "/", "/dev/stdout", 5)
    command = line.removeprefix("*/5 * * * * ").replace("\\%", "%")
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert done.stdout.decode() == text
    assert shlex.split(command, comments=True)[3:6] == ["printf", "%s", text]
    assert cron.switch_off(text)


def test_a_machine_without_cron(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabtrailError, match="crontab is not on PATH; call the tick by hand"):
        cron.switch_on("one", ["x"], "/", "/log", 5)

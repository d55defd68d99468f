"""Forked commands are processes like any other: exit statuses, signals, folders, variables and search paths."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from labtrail.jobs.local import Local
from labtrail.jobs.preloaded import Forked, Preloaded
from labtrail.jobs.scheduler import Job

SPEAKS = """
import os, random, sys, threading, atexit
atexit.register(lambda: print("exit handler"))
thread = threading.Thread(target=lambda: print("thread"))
thread.start()
thread.join()
print(sys.argv[1:], os.getcwd(), os.environ.get("COLOUR"), sys.path[0], __name__, "wave" in sys.modules)
print(os.getsid(0) == os.getpid(), random.random())
print("to stderr", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def forking() -> Generator[Preloaded]:
    preloaded = Preloaded(packages=("wave", "not_installed_at_all"))
    yield preloaded
    preloaded.close()


def start(forking: Preloaded, folder: Path, *words: str, **variables: str) -> Forked:
    with (folder / "out").open("ab") as out, (folder / "err").open("ab") as err:
        return forking.start(
            words, folder=folder, environment=os.environ | variables, stdout=out.fileno(), stderr=err.fileno()
        )


def test_a_command_runs_as_if_started_by_itself(forking: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "speaks.py").write_text(SPEAKS)
    assert start(forking, tmp_path, "speaks", "7", "a b", COLOUR="green").wait(30) == 7
    first, second, *rest = (tmp_path / "out").read_text().splitlines()
    lines = {first, second, *rest}
    assert f"['7', 'a b'] {tmp_path} green {tmp_path} __main__ True" in lines
    assert {"thread", "exit handler"} <= lines
    assert (tmp_path / "err").read_text() == "to stderr\n"


def test_two_commands_draw_different_random_numbers(forking: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "speaks.py").write_text(SPEAKS)
    for _ in range(2):
        assert start(forking, tmp_path, "speaks", "0").wait(30) == 0
    drawn = [line for line in (tmp_path / "out").read_text().splitlines() if line.startswith("True")]
    assert len(set(drawn)) == 2


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("raise ValueError('bad')", 1, "ValueError: bad"),
        ("import sys; sys.exit('words')", 1, "words"),
        ("import sys; sys.exit()", 0, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
        ("import os; os._exit(9)", 9, ""),
    ],
)
def test_ends_are_told_as_they_are(forking: Preloaded, tmp_path: Path, code: str, status: int, message: str) -> None:
    (tmp_path / "ends.py").write_text(code)
    assert start(forking, tmp_path, "ends").wait(30) == status
    assert message in (tmp_path / "err").read_text()


def test_a_module_that_is_not_there_fails(forking: Preloaded, tmp_path: Path) -> None:
    assert start(forking, tmp_path, "not_there_at_all").wait(30) == 1
    assert "No module named not_there_at_all" in (tmp_path / "err").read_text()


def test_signals_reach_the_command(forking: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)")
    process = start(forking, tmp_path, "waits")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    process.kill()
    assert process.returncode == -signal.SIGTERM


def test_the_search_path_is_that_of_the_command(forking: Preloaded, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/distant.py").write_text("print('found', __file__)")
    assert start(forking, tmp_path, "distant").wait(30) == 1
    assert start(forking, tmp_path, "distant", PYTHONPATH="far").wait(30) == 0
    assert (tmp_path / "out").read_text() == f"found {tmp_path / 'far/distant.py'}\n"


def test_when_the_preloaded_process_dies_its_commands_count_as_lost(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import time\ntime.sleep(60)")
    forking = Preloaded(packages=())
    process = start(forking, tmp_path, "waits")
    os.kill(forking.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while forking.alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not forking.alive
    with pytest.raises(OSError, match=r"."):
        start(forking, tmp_path, "waits")
    os.kill(process.pid, signal.SIGKILL)
    forking.close()


def test_local_jobs_run_side_by_side_and_end_with_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.py").write_text(
        "import os\nprint(os.environ['LABTRAIL_CHILD'] == str(os.getppid()), flush=True)"
    )
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)")
    scheduler = Local(3)
    for name in ("quick", "slow"):
        scheduler.submit(Job(name, (sys.executable, "-m", name), {}, tmp_path / f"{name}.log"))
    scheduler.submit(Job("other", ("/bin/sh", "-c", "exit 3"), {}, tmp_path / "other.log"))
    assert scheduler.free() == 0
    ended: dict[str, int] = {}
    deadline = time.monotonic() + 120
    while len(ended) < 2 and time.monotonic() < deadline:
        ended |= scheduler.ended()
        time.sleep(0.05)
    assert ended == {"quick": 0, "other": 3}
    assert (tmp_path / "quick.log").read_text() == "True\n"
    assert scheduler.names() == {"slow"}
    scheduler.close()
    assert scheduler.names() == set()

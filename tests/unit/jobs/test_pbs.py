"""PBS through its transcripts: answers of an OpenPBS 23.06, replayed by commands of the same names."""

import getpass
import os
import textwrap
from pathlib import Path

import pytest

from labtrail.jobs.backends import queue_named
from labtrail.jobs.pbs import Pbs
from labtrail.jobs.queue import Queued, QueueError, SubmitError

HELD = Queued("18.server", "HELD", running=False, stuck="it is held; qrls releases it")


class Recorded:
    """Commands that answer as recorded, and note how they were called."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def answers(self, program: str, body: str) -> None:
        """
        Args:
            program: qsub, qselect or qdel.
            body: lines of a shell script that see the words as "$*".
        """
        path = self._folder / program
        path.write_text(f'#!/bin/bash\necho "{program} $*" >> "{self._folder}/calls"\n{textwrap.dedent(body)}')
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(tmp_path, monkeypatch)


QUEUE = """
    case "$*" in
      *"-N running"*) echo 17.server ;;
      *"-N held"*) echo 18.server ;;
      *"-N waits"*) echo 19.server; echo 17.server ;;
      *-N*) ;;
      *"-s RE"*) echo 17.server ;;
      *"-s H"*) echo 18.server ;;
      *) printf '17.server\\n18.server\\n19.server\\n' ;;
    esac
    """


def test_what_is_alive(recorded: Recorded) -> None:
    recorded.answers("qselect", QUEUE)
    found = Pbs().alive(["running", "held", "gone"])
    assert found == {"running": Queued("17.server", "RUNNING", running=True), "held": HELD}
    assert f"qselect -u {getpass.getuser()} -N gone" in recorded.calls


def test_of_two_jobs_of_a_name_the_running_one_counts(recorded: Recorded) -> None:
    recorded.answers("qselect", QUEUE)
    assert Pbs().alive(["waits"]) == {"waits": Queued("17.server", "RUNNING", running=True)}


def test_an_empty_queue_is_asked_once(recorded: Recorded) -> None:
    recorded.answers("qselect", "")
    assert Pbs().alive([f"cell-{number}" for number in range(300)]) == {}
    assert len(recorded.calls) == 1


def test_a_server_that_does_not_answer_tells_nothing(recorded: Recorded) -> None:
    recorded.answers(
        "qselect",
        "echo 'Connection refused' >&2\necho 'qselect: cannot connect to server vm (errno=15010)' >&2\nexit 1",
    )
    with pytest.raises(QueueError, match="cannot connect to server"):
        Pbs().alive(["a"])
    recorded.answers("qselect", "sleep 60")
    with pytest.raises(QueueError, match=r"qselect did not answer within 0\.2 s"):
        Pbs(0.2).alive(["a"])


def test_submission(recorded: Recorded, tmp_path: Path) -> None:
    recorded.answers("qsub", "echo 17.server")
    assert Pbs().submit(tmp_path / "job.sh", "kd-s0.0123", tmp_path / "log") == "17.server"
    assert recorded.calls == [f"qsub -N kd-s0.0123 -j oe -o /dev/null -r n {tmp_path / 'job.sh'}"]


@pytest.mark.parametrize(
    ("problem", "error"),
    [
        ("qsub: Unknown queue", SubmitError),
        ("qsub: Illegal attribute or resource value Resource_List.select", SubmitError),
        ("qsub: cannot connect to server vm (errno=111)", QueueError),
    ],
)
def test_a_refusal_is_told_from_silence(recorded: Recorded, problem: str, error: type[Exception]) -> None:
    recorded.answers("qsub", f"echo '{problem}' >&2\nexit 1")
    with pytest.raises(error, match=problem.removeprefix("qsub: ").split(" (")[0]):
        Pbs().submit(Path("job.sh"), "name", Path("log"))


@pytest.mark.parametrize(
    ("problem", "status"), [("qdel: Job has finished 17.vm", 35), ("qdel: Unknown Job Id 9999.vm", 153)]
)
def test_jobs_that_are_gone_need_no_cancelling(recorded: Recorded, problem: str, status: int) -> None:
    recorded.answers("qdel", f"echo '{problem}' >&2\nexit {status}")
    Pbs().cancel(["17.server", "18.server"])
    assert recorded.calls == ["qdel 17.server 18.server"]
    recorded.answers("qdel", "echo 'qdel: cannot connect to server vm' >&2\nexit 1")
    with pytest.raises(QueueError, match="cannot connect"):
        Pbs().cancel(["17.server"])


@pytest.mark.parametrize("name", ["slurm", "pbs"])
def test_a_machine_without_the_scheduler(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QueueError, match="is not on PATH; run this on a machine of the cluster"):
        queue_named(name, 1.0).alive(["a"])

"""A loop of one's own that pushes to its run: claimed, continued, ended, asked about and repeated like a task's."""

import signal
import time
from collections.abc import Sequence

import pytest

from labtrail.store import contract
from tests.workspace import REPOSITORY, Workspace, wait_for_line

SCRIPT = """
import argparse
import os
import time

import torch

import labtrail as lt


def scaled(loss):
    return 1.0 * loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=0.1)
    options = parser.parse_args()
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=options.lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    with lt.start(vars(options), task="pushed", score="train/loss", best="lowest") as run:
        for epoch in run.epochs(options.epochs, net, optimizer, schedule=schedule):
            loss = scaled(net(torch.randn(8, 4)).square().mean())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            time.sleep(float(os.environ.get("PAUSE", "0")))
            if os.environ.get("BREAK") == str(epoch):
                raise ValueError("it broke")
            run.log({"train/loss": float(loss.detach())}, step=epoch)
    print("result", run.result.end, run.result.exit_status, run.result.metrics["train/loss"])


if __name__ == "__main__":
    main()
"""


@pytest.fixture
def lab(workspace: Workspace) -> Workspace:
    workspace.write("script.py", SCRIPT)
    return workspace


def _losses(lab: Workspace, run_id: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in lab.client().get_metric_history(run_id, "train/loss"))


def _run(lab: Workspace, *options: str, words: Sequence[str] = ("python", "-m", "script")) -> tuple[int, str]:
    done = lab.run(*words, *options)
    return done.returncode, done.stdout + done.stderr


def test_it_is_done_once_and_says_so(lab: Workspace) -> None:
    status, said = _run(lab, "--epochs", "3")
    assert status == 0, said
    assert "result FINISHED 0 0." in said
    status, said = _run(lab, "--epochs", "3")
    assert status == 0
    assert "already done: run" in said
    assert "result" not in said.replace("experiment results", "")
    (run,) = lab.query("pushed").rows()
    assert run.params["cfg.lr"] == "0.1"
    assert (run.tags[contract.ENDED], run.tags[contract.ATTEMPTS]) == ("FINISHED", "1")


def test_killed_with_9_and_continued_to_the_bit(lab: Workspace) -> None:
    lab.variables["PAUSE"] = "0.5"
    with lab.started("python", "-m", "script") as process:
        wait_for_line(process, "step 2")
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    lab.variables["PAUSE"] = "0"
    assert _run(lab)[0] == 0
    assert _run(lab, "--lr", "0.10000000001")[0] == 0
    runs = lab.query("pushed").runs()
    (continued,) = runs.loc[runs[contract.ATTEMPTS] == "2", "run_id"]
    (nearly,) = runs.loc[runs[contract.ATTEMPTS] == "1", "run_id"]
    assert [step for step, _ in _losses(lab, continued)] == [0, 1, 2, 3, 4, 5]
    assert _losses(lab, continued)[0] == _losses(lab, nearly)[0]
    # The same run whole, beside the one that was killed.
    done = lab.run("labtrail", "reproduce", continued)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict:  to the bit" in done.stdout


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, "KILLED: SIGTERM"), (signal.SIGINT, "KILLED: SIGINT")])
def test_a_signal_ends_it_as_killed(number: signal.Signals, end: str, lab: Workspace) -> None:
    lab.variables["PAUSE"] = "0.5"
    with lab.started("python", "-m", "script") as process:
        wait_for_line(process, "step 1")
        process.send_signal(number)
        process.wait(30)
    (run,) = lab.query("pushed").ended("KILLED").rows()
    assert run.tags[contract.STATUS_REASON] == end


def test_an_error_ends_it_as_failed_and_it_goes_on_there(lab: Workspace) -> None:
    lab.variables["BREAK"] = "2"
    status, said = _run(lab)
    assert status == 1
    assert "ValueError: it broke" in said
    (run,) = lab.query("pushed").ended("FAILED").rows()
    assert run.tags[contract.STATUS_REASON] == "FAILED: ValueError: it broke"
    del lab.variables["BREAK"]
    assert _run(lab)[0] == 0
    (run,) = lab.query("pushed").rows()
    assert run.tags[contract.ATTEMPTS] == "2"


def test_an_edit_of_what_it_reaches_is_asked_about(lab: Workspace) -> None:
    assert _run(lab, "--epochs", "2")[0] == 0
    lab.write("script.py", SCRIPT.replace("return 1.0 * loss", "return 2.0 * loss"))
    status, said = _run(lab, "--epochs", "2")
    assert status == 3
    assert "scaled" in said
    assert "Traceback" not in said


def test_a_value_that_is_not_plain_is_refused(lab: Workspace) -> None:
    lab.write("script.py", SCRIPT.replace("vars(options), task", '{"net": net}, task'))
    status, said = _run(lab)
    assert status == 1
    assert "config of pushed: net: expected a name and a plain value, found Linear(" in said


@pytest.mark.parametrize("where", ["begin", "finish"])
def test_what_breaks_around_the_block_ends_the_run_too(where: str, lab: Workspace) -> None:
    broken = f"""
from labtrail.running.session import Session

plain = Session.{where}

def broken(self, *arguments):
    plain(self, *arguments)
    raise OSError("no space left")

Session.{where} = broken
"""
    lab.write("script.py", SCRIPT.replace("def scaled(loss):", f"{broken}\n\ndef scaled(loss):"))
    status, said = _run(lab, "--epochs", "2")
    assert status == 1
    assert "OSError: no space left" in said
    (run,) = lab.query("pushed").ended("FAILED").rows()
    assert run.tags[contract.STATUS_REASON] == "FAILED: OSError: no space left"


NOTEBOOK = """
import labtrail as lt

result = lt.run("tests.tasks.planted:planted", epochs=2)
print(result.end, result.exit_status, sorted(result.metrics))
print(lt.run("tests.tasks.planted:planted", epochs=2).run_id == result.run_id)
print(lt.run("tests.tasks.planted:planted", epochs=2, fault="late").reason)
"""


def test_a_task_from_python_gives_a_result(lab: Workspace) -> None:
    lab.variables["PYTHONPATH"] = f"src:.:{REPOSITORY}"
    lab.write("cells.py", NOTEBOOK)
    status, said = _run(lab, words=("python", "-m", "cells"))
    assert status == 0, said
    lines = said.splitlines()
    assert lines[0].startswith("FINISHED 0 ['best/epoch', 'best/train/loss', 'system/")
    assert lines[1] == "True"
    assert lines[2].startswith("FAILED: LabtrailError: ")


def test_a_script_by_its_path(lab: Workspace) -> None:
    began = time.time()
    done = lab.cold("python", "script.py", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    (run,) = lab.query("pushed").rows()
    assert run.started is not None
    assert run.started / 1000 >= began - 1
    assert run.tags[contract.CODE]

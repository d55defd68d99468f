"""``compute.precision`` reaches every product of every network, in training and in evaluation."""

import json

import pytest

from tests.workspace import REPOSITORY, Workspace

# Task -> files with products that are none of a network.
BESIDE = {"spoter": (), "pamap2": ("inputs.py",), "distill": ()}


@pytest.mark.parametrize("task", BESIDE)
def test_every_product_is_in_the_precision_that_was_asked_for(task: str, workspace: Workspace) -> None:
    workspace.variables["PYTHONPATH"] = f"src:.:{REPOSITORY}"
    done = workspace.run("python", "-m", "tests.tasks.products", task, "train.epochs=1")
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    # The rotation of raw samples is made before the network.
    for file in BESIDE[task]:
        assert set(counts.pop(file)) == {"torch.float32"}
    assert {kind for of_file in counts.values() for kind in of_file} == {"torch.bfloat16"}
    # Forward and backward passes, and the layers by themselves.
    assert sum(of_file["torch.bfloat16"] for of_file in counts.values()) > 100
    assert "train.py" in counts

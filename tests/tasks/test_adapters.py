"""Loops of other libraries on a run: seen while they go, killed with SIGKILL, continued to the bit."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from labtrail.store import contract
from tests.workspace import Workspace, wait_for_line

TRAINER = '''
import os
import time

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import labtrail as lt
from labtrail.adapters.trainer import TrainerCallback


class Tokens(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 200, (count, 16), generator=generator)
        self.labels = (self.tokens < 100).sum(1).gt(8).long()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.labels[index]}


class Killed(TrainerCallback):
    """Ends the process in the midst of the Trainer's own save, once."""

    def on_epoch_end(self, args, state, control, **_):
        time.sleep(float(os.environ.get("PAUSE", "0")))


def main():
    config = {"epochs": 4, "lr": 1e-3, "seed": 3}
    with lt.start(config, task="bert", score="validation/loss", best="lowest") as run:
        torch.manual_seed(config["seed"])
        small = dict(vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        model = BertForSequenceClassification(BertConfig(**small))
        kept = Killed(run)
        arguments = TrainingArguments(
            kept.folder,
            num_train_epochs=config["epochs"],
            learning_rate=config["lr"],
            seed=config["seed"],
            eval_strategy="epoch",
            save_strategy="epoch",
            logging_strategy="epoch",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_total_limit=2,
        )
        trainer = Trainer(model, arguments, train_dataset=Tokens(64, 0), eval_dataset=Tokens(32, 1), callbacks=[kept])
        if os.environ.get("HALF"):
            whole = trainer._save_optimizer_and_scheduler

            def half(folder):
                if trainer.state.epoch == 3:
                    os.kill(os.getpid(), 9)
                whole(folder)

            trainer._save_optimizer_and_scheduler = half
        trainer.train(resume_from_checkpoint=kept.newest)


main()
'''


def _newest(workspace: Workspace, run_id: str) -> Path:
    folder = workspace.artifacts(run_id) / "checkpoints/trainer"
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


@pytest.mark.parametrize(
    "half",
    [pytest.param(False, marks=pytest.mark.slow, id="between saves"), pytest.param(True, id="in the midst of a save")],
)
def test_trainer_is_killed_and_goes_on_to_the_bit(half: bool, workspace: Workspace) -> None:
    workspace.write("script.py", TRAINER)
    workspace.variables["PAUSE"] = "0.6"
    if half:
        workspace.variables["HALF"] = "1"
    with workspace.started("python", "-m", "script") as process:
        if not half:
            wait_for_line(process, "validation/loss")
            wait_for_line(process, "validation/loss")
            process.send_signal(signal.SIGKILL)
        assert process.wait(120) == -signal.SIGKILL
    (run,) = workspace.query("bert").ended("RUNNING").rows()
    if half:
        # The third checkpoint is there by half.
        assert (_newest(workspace, run.run_id) / "model.safetensors").exists()
        assert not (_newest(workspace, run.run_id) / "optimizer.pt").exists()
    workspace.variables |= {"PAUSE": "0", "HALF": ""}
    done = workspace.run("python", "-m", "script")
    assert done.returncode == 0, done.stderr
    (run,) = workspace.query("bert").rows()
    assert (run.end, run.tags[contract.ATTEMPTS]) == ("FINISHED", "2")
    history = workspace.query("bert").history(["validation/loss", "train/loss"])
    assert sorted(history[history["metric"] == "validation/loss"]["step"]) == [8, 16, 24, 32]
    assert "system/trainer_train_runtime" in run.metrics
    # The same run whole.
    repeated = workspace.run("labtrail", "reproduce", run.run_id)
    assert repeated.returncode == 0, repeated.stdout + repeated.stderr
    assert "verdict:  to the bit" in repeated.stdout
    wanted = f"tags.`{contract.REPRODUCES}` = '{run.run_id}'"
    (other,) = workspace.client().search_runs([run.experiment_id], wanted)
    first, second = (_newest(workspace, run_id) for run_id in (run.run_id, other.info.run_id))
    weights, expected = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)

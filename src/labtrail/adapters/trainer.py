"""The Trainer of transformers on a run of labtrail (extra ``trainer``).

with lt.start(config, task="reviews", score="validation/loss", best="lowest") as run:
    kept = TrainerCallback(run)
    arguments = TrainingArguments(kept.folder, save_strategy="epoch", ...)
    trainer = Trainer(model, arguments, callbacks=[kept], ...)
    trainer.train(resume_from_checkpoint=kept.newest)

The Trainer writes its checkpoints itself. One of them counts once all of it is there, with the digest of each file, and
is named in the state of the run: a half-written one is removed when the run is continued, and never read.

Why: docs/decisions/059-loops-of-other-libraries.md
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import TrainerControl, TrainerState, TrainingArguments

from labtrail.errors import CheckpointError, LaunchError
from labtrail.files import remove, sha256_of, sync_tree

if TYPE_CHECKING:
    from labtrail.running.pushed import Pushed

_FOLDER = "trainer"
# Names of the Trainer's log -> names of metrics; what it says of the machine is not of the training.
_SPLITS = {"eval": "validation", "test": "test", "predict": "test"}
_OF_THE_MACHINE = re.compile(r"(runtime|samples_per_second|steps_per_second|total_flos)$")
# The loss over the whole training is over what came since a resume only.
_NO_METRICS = ("epoch", "step", "train_loss")


class TrainerCallback(transformers.TrainerCallback):
    """Logs what the Trainer logs, and makes its checkpoints survive a kill at any moment.

    Attributes:
        folder: the ``output_dir`` for ``TrainingArguments``, among the run's checkpoints.
        newest: the newest whole checkpoint, for ``trainer.train(resume_from_checkpoint=...)``; None: there is none.
    """

    def __init__(self, run: "Pushed") -> None:
        """
        Args:
            run: of ``lt.start``.

        Raises:
            LaunchError: several processes.
            CheckpointError: the newest checkpoint is damaged.
        """
        if run.accelerator.num_processes > 1:
            raise LaunchError("the callback for the Trainer runs in one process; leave the launcher out")
        self._run = run
        self._whole: dict[str, Any] = {"files": {}}
        self._progress = run.restore(trainer=self._whole)
        run.watch.state_lies_elsewhere()
        path = Path(run.checkpoint.folder).absolute() / _FOLDER
        self.folder = str(path)
        self.newest = self._checked(path / self._whole["checkpoint"]) if "checkpoint" in self._whole else None
        for left in path.glob("checkpoint-*"):
            # Later ones than the newest whole one: this process was killed before they counted.
            if str(left) != self.newest and _step_of(left.name) > _step_of(self._whole.get("checkpoint", "")):
                remove(left)

    def _checked(self, path: Path) -> str:
        for name, digest in self._whole["files"].items():
            if not (path / name).exists() or sha256_of(path / name) != digest:
                raise CheckpointError(
                    f"checkpoint {path}: {name} is missing or does not have its recorded digest; "
                    f"remove {path.parent.parent} to start over"
                )
        return str(path)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Logs the numbers under ``train/``, ``validation/`` and ``test/``, by the Trainer's global step."""
        del args, control
        metrics = dict(_named(logs or {}))
        if metrics:
            self._run.log(metrics, step=state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Lets the checkpoint count that the Trainer has just written."""
        del control
        path = Path(args.output_dir or self.folder) / f"checkpoint-{state.global_step}"
        sync_tree(path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        self._whole |= {
            "checkpoint": path.name,
            "files": {file.relative_to(path).as_posix(): sha256_of(file) for file in files},
        }
        self._progress.epoch += 1
        self._run.save()


def _named(logs: Mapping[str, Any]) -> Any:
    for name, value in logs.items():
        if name in _NO_METRICS or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        prefix, _, rest = name.partition("_")
        split = _SPLITS.get(prefix)
        if _OF_THE_MACHINE.search(name):
            yield f"system/trainer_{name}", float(value)
        elif split and rest:
            yield f"{split}/{rest}", float(value)
        else:
            yield f"train/{name.removeprefix('train_')}", float(value)


def _step_of(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0

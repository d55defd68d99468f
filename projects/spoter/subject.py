"""The training run under study: its config, its data, and its network at any kept epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import labtrail as lt
from labtrail.store import contract
from projects.spoter.config import SpoterConfig
from projects.spoter.data import Split, Splits, load_splits, source_of
from projects.spoter.model import Spoter

TRAINING = "spoter"
UNTRAINED = 0


@dataclass(frozen=True)
class Subject:
    """A finished training run.

    Attributes:
        run_id: its MLflow id.
        name: its run name.
        config: what it ran with.
    """

    run_id: str
    name: str
    config: SpoterConfig


def load_subject(run_id: str) -> Subject:
    """The training run with this id.

    Raises:
        QueryError: it is not there, not a training run, or has not finished.
    """
    row = lt.find_run(run_id, TRAINING)
    return Subject(row["run_id"], row["name"], lt.run_config(row["run_id"], SpoterConfig))


def known_epochs(run_id: str) -> tuple[int, ...]:
    """Epochs whose weights the run has kept, ascending."""
    names = lt.artifact_names(run_id, contract.CHECKPOINTS)
    kept = [name.removeprefix("epoch_").removesuffix(".pt") for name in names if name.startswith("epoch_")]
    return tuple(sorted(int(number) for number in kept))


def chosen_epochs(run_id: str, wanted: Sequence[int]) -> tuple[int, ...]:
    """The wanted epochs, or all that were kept if none is named; 0 is the network before training.

    Raises:
        QueryError: an epoch that the run has not kept; lists those it has.
    """
    known = known_epochs(run_id)
    missing = sorted(set(wanted) - {UNTRAINED, *known})
    if missing or not (wanted or known):
        kept = ", ".join(map(str, known)) or "none"
        asked = ", ".join(map(str, missing)) or "its milestones"
        raise lt.QueryError(
            f"run {run_id}: no checkpoint of epoch {asked}; it kept {kept} "
            "(train.milestones of the training decides; 0 is the network before training)"
        )
    return tuple(sorted(set(wanted))) or known


def checkpoint_name(epoch: int) -> str:
    """Artifact path of an epoch's weights."""
    return f"{contract.CHECKPOINTS}/epoch_{epoch:03d}.pt"


def weights_name(epoch: int) -> str:
    """Artifact that an epoch's weights follow from: a checkpoint, or before training the config with its seed."""
    return contract.CONFIG_FILE if epoch == UNTRAINED else checkpoint_name(epoch)


def network(subject: Subject, epoch: int, classes: int) -> Spoter:
    """The network after an epoch, in evaluation mode; epoch 0 is drawn again from the run's seed.

    Raises:
        DataError: the checkpoint has another number of classes than the data.
        CheckpointError: it cannot be read.
    """
    lt.reseed(subject.config.seed)
    model = Spoter(subject.config.model, classes)
    if epoch != UNTRAINED:
        path = lt.artifact(subject.run_id, checkpoint_name(epoch))
        weights = lt.load_portable(path)["model_state_dict"]
        stored_classes = weights["linear_class.weight"].shape[0]
        if stored_classes != classes:
            raise lt.DataError(
                f"{path}: a checkpoint of {stored_classes} classes, but the run's data now have {classes}; "
                "put the data it was trained on back, or name another run"
            )
        model.load_state_dict(weights)
    return model.eval()


def study_sources(subject: Subject, split_name: str, epochs: Sequence[int]) -> list[lt.DataSource]:
    """What a study of a run reads: one split, and one checkpoint for each epoch."""
    splits = load_splits(subject.config.data)
    split = split_of(splits, split_name)
    data_sources = [source_of(split, splits, getattr(subject.config.data, split_name))]
    for epoch in epochs:
        name = weights_name(epoch)
        label = "untrained" if epoch == UNTRAINED else ""
        profile = {"epoch": epoch, "run": subject.run_id}
        data_sources.append(lt.artifact_source(subject.run_id, name, "checkpoint", label, profile))
    return data_sources


def split_of(splits: Splits, name: str) -> Split:
    """One of the three splits by its name."""
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}[name]

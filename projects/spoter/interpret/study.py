"""What an analysis looks at: one finished extraction, the training behind it, and its data on one device."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import labtrail as lt
from labtrail.store import contract
from projects.spoter import attention
from projects.spoter.attention_file import AttentionFile
from projects.spoter.batches import Inputs, to_inputs
from projects.spoter.config import AnalysisConfig, AttentionConfig
from projects.spoter.data import Split, Splits, load_splits
from projects.spoter.glosses import load_glosses
from projects.spoter.interpret.heads import long_enough
from projects.spoter.interpret.language import Bert, load_bert
from projects.spoter.subject import Subject, load_subject, network, split_of

_log = logging.getLogger("labtrail")


@dataclass(frozen=True)
class Study:
    """Everything that an analysis reads.

    Attributes:
        config: what is asked.
        attention_run: id of the extraction.
        subject: the training.
        splits: all data of the training.
        split: the one that was extracted.
        inputs: that split as the network reads it.
        files: epoch -> attention file, epochs ascending.
        clips: indices of the clips with at least two frames.
        names: what each class is called.
        glossed: whether the names are glosses.
        bert: the language model, if one is named.
    """

    config: AnalysisConfig
    attention_run: str
    subject: Subject
    splits: Splits
    split: Split
    inputs: Inputs
    files: dict[int, AttentionFile]
    clips: np.ndarray
    names: Sequence[str]
    glossed: bool
    bert: Bert | None = None

    def model(self, epoch: int):
        """The network after an epoch, on the study's device."""
        return network(self.subject, epoch, self.splits.classes).to(self.inputs.frames.device)

    def normalised(self, clip: int) -> np.ndarray:
        """One clip as the network reads it, shape (T, 108)."""
        start = int(self.inputs.starts[clip])
        return self.inputs.frames[start : start + int(self.inputs.lengths[clip])].cpu().numpy()

    def few(self, count: int) -> list[int]:
        """Clips by the rule of the case studies: classes at even distances, the first clip of each."""
        firsts = {int(label): int(clip) for clip, label in reversed(list(enumerate(self.split.labels)))}
        present = sorted(firsts)
        places = np.unique(np.linspace(0, len(present) - 1, min(count, len(present))).round().astype(int))
        return [firsts[present[place]] for place in places]


def find_extraction(wanted: str) -> str:
    """Id of a finished extraction, named by itself or by the training that it belongs to.

    Raises:
        QueryError: there is none, or several of one training.
    """
    try:
        return lt.find_run(wanted, "spoter-attention")["run_id"]
    except lt.QueryError as error:
        try:
            return lt.find_run(f"tags.`{contract.READS}` = '{wanted}'", "spoter-attention")["run_id"]
        except lt.QueryError as other:
            if "finished runs of task" in str(other):
                raise other from None
            hint = "extract it first: mlflow run . -e spoter-attention -P run=TRAINING_RUN_ID"
            raise lt.QueryError(f"{error}; {hint}") from None


def extraction_config(run_id: str) -> AttentionConfig:
    """What an extraction ran with."""
    return lt.load_config(AttentionConfig, lt.artifact(run_id, contract.CONFIG_FILE))


def resolve(config: AnalysisConfig) -> AnalysisConfig:
    """The config with the extraction's id and all epochs written out.

    Raises:
        QueryError: an epoch that was not extracted.
    """
    run_id = find_extraction(config.run)
    known = extraction_config(run_id).epochs
    chosen = tuple(sorted(set(config.epochs))) or known
    intervention = tuple(sorted(set(config.intervention.epochs))) or chosen[-1:]
    for key, epochs, valid in (("epochs", chosen, known), ("intervention.epochs", intervention, chosen)):
        if missing := sorted(set(epochs) - set(valid)):
            listed = ", ".join(map(str, valid))
            raise lt.QueryError(f"{key}: epoch {missing[0]} was not extracted by run {run_id}; it has {listed}")
    update = {"run": run_id, "epochs": chosen}
    update["intervention"] = config.intervention.model_copy(update={"epochs": intervention})
    return config.model_copy(update=update)


def load_study(config: AnalysisConfig, device: torch.device) -> Study:
    """Opens what the config names and checks that it belongs together.

    Raises:
        DataError: an attention file is damaged, or of other data than the training's files now hold; no language
            model where one is named, or no glosses to compare it with.
    """
    extraction = extraction_config(config.run)
    subject = load_subject(extraction.run)
    splits = load_splits(subject.config.data)
    split = split_of(splits, extraction.split)
    files = {epoch: AttentionFile(lt.artifact(config.run, attention.file_name(epoch))) for epoch in config.epochs}
    for file in files.values():
        if file.facts["data_sha256"] != split.clips.digest:
            raise lt.DataError(
                f"{file.path}: made from other data than {split.clips.path} now holds; put that data back, "
                "or extract the attention again"
            )
    clips = long_enough(split.clips.lengths)
    if not len(clips):
        raise lt.DataError(f"{split.clips.path}: every clip has one frame only, which leaves attention no choice")
    if len(clips) < len(split.clips):
        left_out = np.setdiff1d(np.arange(len(split.clips)), clips).tolist()
        _log.warning(
            "%s: %d of %d clips have one frame, which leaves attention no choice; head statistics leave them out: %s",
            split.clips.path,
            len(left_out),
            len(split.clips),
            left_out,
        )
    paths = [Path(split.clips.path) for split in (splits.train, splits.validation, splits.test)]
    column = subject.config.data.label_column
    glosses = load_glosses(paths, column, splits.first_label, splits.classes, config.language.glosses)
    names = [gloss or f"class {splits.first_label + index}" for index, gloss in enumerate(glosses)]
    inputs = to_inputs(split.clips.frames, split.clips.lengths, split.labels, device)
    whole = all(gloss is not None for gloss in glosses)
    if config.mbert is not None and not whole:
        raise lt.DataError(
            f"mbert: nothing to compare {config.mbert} with: the data of run {subject.run_id} have no glosses; name a "
            "list of lines 'label<TAB>gloss' with language.glosses, or leave mbert out"
        )
    bert = None if config.mbert is None else load_bert(config.mbert, config.language.random_weights)
    return Study(config, config.run, subject, splits, split, inputs, files, clips, names, whole, bert)

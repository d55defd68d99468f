"""Teachers: finished runs, resolved once, of the student's own data, with weights whose digest is known.

Why: docs/decisions/017-read-finished-runs-once.md
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

import labtrail as lt
from labtrail.store.contract import BEST_WEIGHTS, is_run_id
from projects.distill.config import ALONE, FIND, DistillConfig
from projects.distill.data import Images, load_images
from projects.distill.model import ResNet, fused

if TYPE_CHECKING:
    import pandas as pd

# Where the student's weights lie in a checkpoint of a run; beside them are the parts of its method.
PREFIX = "student."


class Teacher(NamedTuple):
    """A frozen teacher.

    Attributes:
        model: in evaluation mode, without gradients.
        widths: channels of its three stages.
    """

    model: nn.Module
    widths: tuple[int, ...]


def resolve(config: DistillConfig) -> DistillConfig:
    """The config with its teacher's run id, version and digest written out; a run without a teacher has none.

    Raises:
        QueryError: no such run, one that has not finished, one of other data; the valid ones are listed.
        ConfigError: the weights are not those of a digest that was given.
    """
    if config.method in ALONE:
        none = {"teacher": "", "teacher_version": "", "teacher_sha256": ""}
        return config.model_copy(update=none | ({"alpha": 0.0} if config.method == "none" else {}))

    version = ""
    if config.teacher == FIND:
        run_id = _baseline(config)
    elif config.teacher.startswith("models:/"):
        found_id, version = lt.model_version(config.teacher)
        run_id = _finished_run(found_id)
    else:
        run_id = _finished_run(config.teacher)
    _refuse_other_data(run_id, config)
    digest = _weights_digest(run_id)
    if config.teacher_sha256 not in ("", digest):
        raise lt.ConfigError([f"teacher_sha256: run {run_id} has weights {digest}, expected {config.teacher_sha256}"])
    resolved = {"teacher": run_id, "teacher_version": version or config.teacher_version, "teacher_sha256": digest}
    return config.model_copy(update=resolved)


# A finished run does not change, and a round has hundreds of students of one teacher: what is read of it is kept.


def _finished_run(wanted: str) -> str:
    """Id of the one finished run that is meant."""
    return _finished_id(wanted) if is_run_id(wanted) else str(lt.find_run(wanted, "distill")["run_id"])


@lru_cache(maxsize=1024)
def _finished_id(run_id: str) -> str:

    return str(lt.find_run(run_id, "distill")["run_id"])


@lru_cache(maxsize=1024)
def _weights_digest(run_id: str) -> str:

    return lt.sha256_of(lt.artifact(run_id, BEST_WEIGHTS))


@lru_cache(maxsize=1024)
def _read_digests(run_id: str) -> frozenset[str]:

    return frozenset(lt.data_digests(run_id))


def _baseline(config: DistillConfig) -> str:
    """The finished baseline of these data, this seed and the wanted architecture; the newest of equal ones.

    Raises:
        QueryError: there is none, or several that differ in more than that.
    """
    wanted = {"method": "none", "data.name": config.data.name}
    runs = lt.Query("distill").configured(wanted).runs()
    if len(runs):
        same = (runs["cfg.seed"] == str(config.seed)) & (runs["cfg.model.name"] == config.teacher_model)
        fit = [run_id for run_id in runs[same]["run_id"] if _same_data(run_id, config)]
        # Of several, those trained as the student will be.
        fit = [run_id for run_id in fit if run_config(run_id).train == config.train] or fit
        if len({run_config(run_id) for run_id in fit}) > 1:
            raise lt.QueryError(
                f"teacher: {len(fit)} baselines {config.teacher_model} on {config.data.name} with seed {config.seed}, "
                f"trained in different ways; name one{_listed(runs[runs['run_id'].isin(fit)])}"
            )
        if fit:
            return str(fit[-1])
    raise lt.QueryError(
        f"teacher: no finished baseline {config.teacher_model} on {config.data.name} with seed {config.seed}; train it "
        f"with method none and model.name {config.teacher_model}, or name one{_listed(runs)}"
    )


def _refuse_other_data(run_id: str, config: DistillConfig) -> None:
    if not _same_data(run_id, config):
        runs = lt.Query("distill").configured({"method": "none", "data.name": config.data.name}).runs()
        theirs = run_config(run_id).data
        raise lt.QueryError(
            f"teacher: run {run_id} was trained on other images ({theirs.name}, split seed {theirs.split_seed}) than "
            f"this config has ({config.data.name}, split seed {config.data.split_seed}){_listed(runs)}"
        )


def _same_data(run_id: str, config: DistillConfig) -> bool:
    return set(load_images(config.data).digests.values()) <= _read_digests(run_id)


def _listed(runs: "pd.DataFrame") -> str:
    if not len(runs):
        return "; no baseline on these data has finished yet"
    return "; finished ones: " + ", ".join(
        f"{run_id} ({name})" for run_id, name in zip(runs["run_id"], runs["name"], strict=True)
    )


@lru_cache(maxsize=1024)
def run_config(run_id: str) -> DistillConfig:
    """What a run ran with."""
    return lt.run_config(run_id, DistillConfig)


def teacher_source(config: DistillConfig) -> list[lt.DataSource]:
    """The teacher's weights, as data that a student reads."""
    if not config.teacher:
        return []
    profile = {"model": run_config(config.teacher).model.name}
    digest = config.teacher_sha256
    return [lt.artifact_source(config.teacher, BEST_WEIGHTS, "teacher", "teacher", profile, digest)]


def load_teacher(config: DistillConfig, images: Images, device: torch.device) -> Teacher:
    """The teacher's best weights, frozen, in the memory format and with the fusing that the config asks for.

    Args:
        config: of a student, with the id of its teacher.
        images: that both see; they say how many channels and classes the teacher has.
        device: where it is wanted.
    """
    model = ResNet(run_config(config.teacher).model, images.train.images.shape[1], images.classes)
    model.load_state_dict(
        student_weights(lt.load_portable(lt.artifact(config.teacher, BEST_WEIGHTS))["model_state_dict"])
    )
    model.requires_grad_(False).eval()
    if config.train.fused_teacher:
        fused(model)
    if config.train.channels_last:
        convert_conv2d_weight_memory_format(model, torch.channels_last)
    return Teacher(model.to(device), model.widths)


def student_weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network's part of a checkpointed state."""
    return {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}


def student_sources(config: DistillConfig) -> Sequence[lt.DataSource]:
    """The three splits, and the teacher's weights."""
    images = load_images(config.data)
    place = str(config.data.folder or f"data/{config.data.name}")
    counts = {"train": images.train, "validation": images.validation, "test": images.test}
    return [
        *(
            lt.DataSource(f"{config.data.name}-{name}", name, place, digest, {"images": len(counts[name].labels)})
            for name, digest in images.digests.items()
        ),
        *teacher_source(config),
    ]

"""All interventions on the network of one epoch, and their tables with intervals and nulls."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from tqdm import tqdm

from labtrail.statistics import bootstrap_mean, expected_calibration_error
from projects.spoter.evaluate import logits_of
from projects.spoter.interpret.gradients import Attribution, integrated_gradients, query_key_norms, untrained_norms
from projects.spoter.interpret.heads import rollout
from projects.spoter.interpret.interventions import (
    FRACTIONS,
    GROUPS,
    ablate_heads,
    area_under,
    deletion_curves,
    occlude_joints,
    order_sensitivity,
)
from projects.spoter.interpret.study import Study
from projects.spoter.model import Spoter
from projects.spoter.normalise import CENTRE
from projects.spoter.skeleton import FRAME_SIZE, JOINT_COUNT, JOINTS

RANDOM = "random"
_UNTRAINED_DRAWS = 20
_ORDER_CLIPS = 64


@dataclass(frozen=True)
class Effects:
    """What was found at one epoch; every change is of the centred logit of the class the network predicts.

    Attributes:
        epoch: of the checkpoint.
        modules: names of the attention modules, encoder first.
        targets, probabilities: predicted class of each clip of the split and its probability, shape (clips,).
        calibration: expected calibration error of the split.
        order_change: largest change of any logit when frames are shuffled or reversed.
        ablation: change without each head, shape (clips, modules, heads).
        attribution: integrated gradients from the mean frame of the split.
        frames: method -> importance of each frame of the split, shape (N,).
        deletion: method -> probability along the deletion, shape (clips with two frames or more, 10).
        occlusion: fill -> group of joints -> change, shape (clips,).
        occlusion_null: fill -> group -> the same for random joints of that number.
        reading: query-key norms by joint (2, H, 54); reading_null: of untrained networks (draws, 2, H, 54).
    """

    epoch: int
    modules: list[str]
    targets: np.ndarray
    probabilities: np.ndarray
    calibration: float
    order_change: float
    ablation: np.ndarray
    attribution: Attribution
    frames: dict[str, np.ndarray]
    deletion: dict[str, np.ndarray]
    occlusion: dict[str, dict[str, np.ndarray]]
    occlusion_null: dict[str, dict[str, np.ndarray]]
    reading: np.ndarray
    reading_null: np.ndarray


def ablate(study: Study, epoch: int) -> Effects:
    """Runs every intervention on the network of an epoch."""
    config, inputs = study.config, study.inputs
    model = study.model(epoch)
    generator = np.random.default_rng(config.seed)
    logits = logits_of(model, inputs, study.splits.classes, config.max_frames).cpu().numpy()
    targets = logits.argmax(axis=1)
    probabilities = softmax(logits, axis=1)
    mean_frame = inputs.frames.mean(dim=0)
    attribution = integrated_gradients(model, inputs, targets, mean_frame, config.intervention.steps, config.max_frames)
    frames = _frame_importance(study, epoch, attribution)
    fills = {"mean frame": mean_frame, "missing": torch.full((FRAME_SIZE,), -CENTRE, device=mean_frame.device)}
    occlusion = {fill: _occlude(study, model, targets, values, generator) for fill, values in fills.items()}
    return Effects(
        epoch=epoch,
        modules=list(model.attentions()),
        targets=targets,
        probabilities=probabilities.max(axis=1),
        calibration=expected_calibration_error(probabilities, study.split.labels),
        order_change=order_sensitivity(model, inputs, study.clips[:_ORDER_CLIPS].tolist(), config.seed),
        ablation=ablate_heads(model, inputs, targets, config.max_frames),
        attribution=attribution,
        frames=frames,
        deletion=_deletion(study, model, targets, frames, generator),
        occlusion={fill: change for fill, (change, _) in occlusion.items()},
        occlusion_null={fill: null for fill, (_, null) in occlusion.items()},
        reading=query_key_norms(model),
        reading_null=untrained_norms(study.subject.config.model, study.splits.classes, _UNTRAINED_DRAWS, config.seed),
    )


def _occlude(
    study: Study, model: Spoter, targets: np.ndarray, filling: torch.Tensor, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Change by group of joints, and the mean change by random groups of the same size."""
    draws = study.config.intervention.random_groups
    several = [
        joints
        for group in GROUPS.values()
        for joints in (group, *(generator.permutation(JOINT_COUNT)[: len(group)].tolist() for _ in range(draws)))
    ]
    changes = occlude_joints(model, study.inputs, targets, several, filling, study.config.max_frames)
    by_group = dict(zip(GROUPS, changes.reshape(len(GROUPS), 1 + draws, -1), strict=True))
    by_name = {group: changes[0] for group, changes in by_group.items()}
    return by_name, {group: measured[1:].mean(axis=0) for group, measured in by_group.items()}


def _frame_importance(study: Study, epoch: int, attribution: Attribution) -> dict[str, np.ndarray]:
    """Importance of every frame: the class query's mean attention, rollout, and integrated gradients."""
    file = study.files[epoch]
    query, flow = [], []
    for clip in range(len(file)):
        weights = file.clip(clip)
        query.append(np.mean([part[:, 0] for name, part in weights.items() if name.startswith("dec")], axis=(0, 1)))
        flow.append(rollout(weights))
    gradients = attribution.values.sum(dim=1).cpu().numpy()
    return {"attention": np.concatenate(query), "rollout": np.concatenate(flow), "integrated gradients": gradients}


def _deletion(
    study: Study, model: Spoter, targets: np.ndarray, frames: dict[str, np.ndarray], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    curves: dict[str, list[np.ndarray]] = {name: [] for name in (*frames, RANDOM)}
    for clip in tqdm(study.clips, desc="deletion", unit="clip", leave=False, disable=None):
        start, length = int(study.inputs.starts[clip]), int(study.inputs.lengths[clip])
        part = slice(start, start + length)
        importance = {name: values[part] for name, values in frames.items()}
        importance[RANDOM] = generator.random((study.config.intervention.random_orders, length))
        clip_curves = deletion_curves(
            model, study.inputs.frames[part], int(targets[clip]), importance, study.config.max_frames
        )
        for name, curve in clip_curves.items():
            curves[name].append(curve)
    return {name: np.stack(rows) for name, rows in curves.items()}


def ablation_rows(effects: Effects, resamples: int, seed: int) -> pd.DataFrame:
    """Rows of the head table for the statistic ``ablation``: change of the logit, null 0 (nothing removed)."""
    mean = bootstrap_mean(effects.ablation, resamples, seed)
    heads = effects.ablation.shape[2]
    values = {"value": mean.value.ravel(), "low": mean.low.ravel(), "high": mean.high.ravel()}
    return pd.DataFrame(
        [(effects.epoch, name, name[:3], int(name[4:]), head) for name in effects.modules for head in range(heads)],
        columns=["epoch", "module", "stack", "layer", "head"],
    ).assign(
        statistic="ablation",
        **values,
        null=0.0,
        difference=values["value"],
        difference_low=values["low"],
        difference_high=values["high"],
        null_kind="no head removed",
        clips=len(effects.ablation),
    )


def deletion_table(effects: Effects, resamples: int, seed: int) -> pd.DataFrame:
    """Area under each deletion curve (smaller = the frames found first mattered more) and its gain over chance.

    Columns: epoch, method, auc, low, high, below_random, below_random_low, below_random_high (paired by clip), clips.
    """
    areas = {name: area_under(curve) for name, curve in effects.deletion.items()}
    rows = []
    for name, area in areas.items():
        area_interval, gain = (bootstrap_mean(values, resamples, seed) for values in (area, areas[RANDOM] - area))
        rows.append((effects.epoch, name, *map(float, area_interval), *map(float, gain), len(area)))
    columns = [
        "epoch",
        "method",
        "auc",
        "low",
        "high",
        "below_random",
        "below_random_low",
        "below_random_high",
        "clips",
    ]
    return pd.DataFrame(rows, columns=columns)


def curve_table(effects: Effects, resamples: int, seed: int) -> pd.DataFrame:
    """Mean probability along each deletion, with intervals over clips.

    Columns: epoch, method, removed (share of the frames), value, low, high.
    """
    tables = []
    for name, curve in effects.deletion.items():
        mean = bootstrap_mean(curve, resamples, seed)
        values = {"value": mean.value, "low": mean.low, "high": mean.high}
        tables.append(pd.DataFrame({"epoch": effects.epoch, "method": name, "removed": FRACTIONS, **values}))
    return pd.concat(tables, ignore_index=True)


def occlusion_table(effects: Effects, resamples: int, seed: int) -> pd.DataFrame:
    """Change of the logit without a group of joints, beside random joints of the same number.

    Columns: epoch, group, joints, fill, change, low, high, null, difference, difference_low, difference_high, clips.
    """
    rows = []
    for fill, groups in effects.occlusion.items():
        for group, change in groups.items():
            null = effects.occlusion_null[fill][group]
            change_interval, difference = (
                bootstrap_mean(values, resamples, seed) for values in (change, change - null)
            )
            facts = (effects.epoch, group, len(GROUPS[group]), fill)
            rows.append(
                (*facts, *map(float, change_interval), float(null.mean()), *map(float, difference), len(change))
            )
    ends = ["difference", "difference_low", "difference_high", "clips"]
    columns = ["epoch", "group", "joints", "fill", "change", "low", "high", "null", *ends]
    return pd.DataFrame(rows, columns=columns)


def reading_table(effects: Effects) -> pd.DataFrame:
    """Query-key norms of the first encoder layer by head and joint, beside those of untrained networks.

    Columns: epoch, head, joint, side (query or key), norm, null, null_low, null_high (95 % of the draws).
    """
    low, high = np.quantile(effects.reading_null, [0.025, 0.975], axis=0)
    null = effects.reading_null.mean(axis=0)
    side, head, joint = np.indices(effects.reading.shape).reshape(3, -1)
    return pd.DataFrame(
        {
            "epoch": effects.epoch,
            "head": head,
            "joint": np.array(JOINTS)[joint],
            "side": np.array(["query", "key"])[side],
            "norm": effects.reading.ravel(),
            "null": null.ravel(),
            "null_low": low.ravel(),
            "null_high": high.ravel(),
        }
    )

"""One page for each case study: the skeletons, what the frames count for, and what changes without a part."""

import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from labtrail.figures import COLOURS
from projects.spoter.interpret.effects import Effects
from projects.spoter.interpret.interventions import GROUPS
from projects.spoter.interpret.study import Study
from projects.spoter.skeleton import BONES

_POSES = 8


def case_pages(study: Study, effects: Effects) -> dict[str, Figure]:
    """The pages of the chosen signs, ``figures/cases/1_<sign>.png`` and so on."""
    pages = {}
    for number, clip in enumerate(study.few(study.config.cases.count), start=1):
        sign = re.sub(r"[^a-z0-9]+", "-", study.names[int(study.split.labels[clip])].lower()).strip("-")
        pages[f"figures/cases/{number}_{sign}.png"] = _page(study, effects, clip)
    return pages


def _page(study: Study, effects: Effects, clip: int) -> Figure:
    figure = Figure(figsize=(12, 10), layout="constrained")
    label, guess = int(study.split.labels[clip]), int(effects.targets[clip])
    verdict = "correct" if label == guess else "wrong"
    order = (
        "Frames have positions in this variant."
        if study.subject.config.model.positions
        else "Frames are drawn in time, but the network sees a set: their order has no influence."
    )
    figure.suptitle(
        f"{study.names[label]}: predicted {study.names[guess]} ({verdict}) at {effects.probabilities[clip]:.0%}, "
        f"clip {clip} of {study.split.name}, epoch {effects.epoch}\nOne clip: no intervals. {order}",
        fontsize=10,
    )
    top, middle, bottom = np.ravel(np.array(figure.subfigures(3, 1, height_ratios=[1.1, 1.2, 1.6])))
    start, length = int(study.inputs.starts[clip]), int(study.inputs.lengths[clip])
    importance = {name: values[start : start + length] for name, values in effects.frames.items()}
    _strip(top, study.split.clips.clip(clip), importance["integrated gradients"])
    _curves(middle.subplots(1, 2), importance)
    left, right = bottom.subplots(1, 2, width_ratios=[1.3, 1])
    _ablation(left, effects, clip)
    _occlusion(right, effects, clip)
    return figure


def _strip(panel, frames: np.ndarray, gradients: np.ndarray) -> None:
    """Poses at even distances, each with its frame's integrated gradients."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(_POSES, len(frames))).round().astype(int))
    present = frames[(frames != 0).any(axis=2)]
    low, high = (present.min(axis=0), present.max(axis=0)) if len(present) else (np.zeros(2), np.ones(2))
    for axis, frame in zip(np.atleast_1d(panel.subplots(1, len(chosen))), chosen, strict=True):
        draw_skeleton(axis, frames[frame])
        axis.set(xlim=(low[0] - 0.03, high[0] + 0.03), ylim=(low[1] - 0.03, high[1] + 0.03), aspect="equal")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_title(f"frame {frame}\nIG {gradients[frame]:+.2f}", fontsize=8)


def draw_skeleton(axis: Axes, frame: np.ndarray) -> None:
    """The bones of one frame (54, 2), y upwards; missing joints are left out."""
    present = frame[:, 0] != 0
    for start, end in BONES:
        if present[start] and present[end]:
            colour = COLOURS[6] if max(start, end) < 12 else COLOURS[0] if start < 33 else COLOURS[1]
            axis.plot(frame[[start, end], 0], frame[[start, end], 1], color=colour, linewidth=1)


def _curves(axes: np.ndarray, importance: dict[str, np.ndarray]) -> None:
    for name, colour in (("attention", COLOURS[0]), ("rollout", COLOURS[2])):
        axes[0].plot(importance[name] * len(importance[name]), color=colour, marker=".", label=name)
    axes[0].axhline(1.0, color="0.6", linewidth=1)
    axes[0].set(xlabel="frame", ylabel="share x T (1 = uniform)", title="Class query: attention and rollout")
    axes[0].legend(frameon=False, fontsize=8)
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    gradients = importance["integrated gradients"]
    axes[1].bar(range(len(gradients)), gradients, color=COLOURS[1])
    axes[1].set(xlabel="frame", ylabel="logit", title="Integrated gradients, from the split's mean frame")


def _ablation(axis: Axes, effects: Effects, clip: int) -> None:
    values = effects.ablation[clip]
    reach = max(float(np.abs(values).max()), 1e-12)
    image = axis.imshow(values, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto")
    axis.set_yticks(range(len(effects.modules)), effects.modules, fontsize=7)
    axis.set(xlabel="head", title="Change of the logit without a head")
    axis.figure.colorbar(image, ax=axis)


def _occlusion(axis: Axes, effects: Effects, clip: int) -> None:
    places = np.arange(len(GROUPS))
    for offset, (fill, groups) in zip((-0.2, 0.2), effects.occlusion.items(), strict=True):
        values = [groups[name][clip] for name in GROUPS]
        colour = COLOURS[0] if offset < 0 else COLOURS[4]
        axis.barh(places + offset, values, height=0.4, color=colour, label=f"set to {fill}")
    axis.set_yticks(places, list(GROUPS), fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="0.6", linewidth=1)
    axis.set(title="Change of the logit without a group of joints")
    axis.legend(frameon=False, fontsize=8)

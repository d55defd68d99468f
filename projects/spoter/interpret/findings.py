"""The findings in words: what was measured, beside its null, on one page of Markdown."""

from collections.abc import Sequence

import pandas as pd

from projects.spoter.interpret.effects import RANDOM, Effects
from projects.spoter.interpret.study import Study

# Largest change of a logit that rounding in float32 explains.
ROUNDING = 1e-4


def order_sentence(study: Study, effects: Effects) -> str:
    """Whether the order of the frames can matter to this checkpoint, as measured."""
    change = effects.order_change
    if change <= ROUNDING:
        return (
            f"Shuffling or reversing the frames changes no logit by more than {change:.1e}: the network has no "
            "temporal encoding and sees a *set* of frames. Attention depends on what frames show; nothing below is "
            'about time, and "distance" only says how far apart in the clip the frames lie whose content a head joins.'
        )
    expected = study.subject.config.model.positions
    claim = "as expected of `model.positions: true`" if expected else "unexpected: the config adds no positions"
    return f"Shuffling or reversing the frames changes a logit by {change:.2g} ({claim}): the order of frames matters."


def write_findings(
    study: Study,
    heads: pd.DataFrame,
    similarity: pd.DataFrame,
    effects: Sequence[Effects],
    deletion: pd.DataFrame,
    occlusion: pd.DataFrame,
    language: str,
) -> str:
    """The page.

    Args:
        study: what was looked at.
        heads: the head table with the rows of ablation.
        similarity: the CKA table.
        effects: the interventions, last epoch last.
        deletion, occlusion: their tables.
        language: what is to be said about the language model.
    """
    last = effects[-1]
    synthetic = study.subject.config.data.train == "synthetic"
    parts = [
        f"# What the heads of {study.subject.name} look at",
        "**SYNTHETIC data: the numbers say nothing about sign language.**" if synthetic else "",
        f"Training run `{study.subject.run_id}`, extraction `{study.attention_run}`, {study.split.name} split: "
        f"{len(study.split.clips)} clips, {len(study.clips)} with two frames or more; epochs "
        f"{', '.join(map(str, study.files))}. Intervals are 95 % over clips (bootstrap; jackknife for CKA), not over "
        "trainings: they say "
        "how sure a number is for this network, not for the next one.",
        "## Order",
        order_sentence(study, last),
        "## Heads",
        _heads(heads),
        "## Layers through training (debiased CKA, 1 = the same up to rotation and scale)",
        _similarity(similarity),
        f"## Taking parts away (epoch {last.epoch}; change of the predicted class's centred logit)",
        _ablation(heads, last.epoch),
        _deletion(deletion[deletion["epoch"] == last.epoch]),
        _occlusion(occlusion[occlusion["epoch"] == last.epoch]),
        f"Integrated gradients sum to the change from the mean frame up to {last.attribution.error.max():.2g} logits "
        "(the quadrature's error, largest over clips). Query-key norms by joint are in `tables/reading.csv`: they show "
        "what the first layer's heads *can* read, beside untrained networks; attention over frames cannot say which "
        "joints a head looks at.",
        f"Expected calibration error of the split: {last.calibration:.3f} (15 bins; biased upwards on so few clips).",
        "## Beside a language model",
        language,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heads(table: pd.DataFrame) -> str:
    lines = ["| epoch | stack | statistic | mean over heads | null | heads whose interval of value - null excludes 0 |"]
    lines.append("|---|---|---|---|---|---|")
    rows = table[table["statistic"] != "ablation"]
    for (statistic, stack, epoch), part in rows.groupby(["statistic", "stack", "epoch"]):
        clear = (part["difference_low"] > 0) | (part["difference_high"] < 0)
        null = f"{part['null'].mean():.4f} ({part['null_kind'].iloc[0]})"
        lines.append(
            f"| {epoch} | {stack} | {statistic} | {part['value'].mean():.4f} | {null} | {clear.sum()} of {len(part)} |"
        )
    return "\n".join(lines)


def _similarity(table: pd.DataFrame) -> str:
    across = table[table["layer_a"] == table["layer_b"]]
    if across.empty:
        return "One epoch only: nothing to compare across training."
    lines = ["| epochs | least alike layer | most alike layer |", "|---|---|---|"]
    for (epoch, later_epoch), part in across.groupby(["epoch_a", "epoch_b"]):
        ordered = part.dropna(subset="cka").sort_values("cka")
        if not ordered.empty:
            shown = [
                f"{row['layer_a']} {row['cka']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
                for _, row in ordered.iloc[[0, -1]].iterrows()
            ]
            lines.append(f"| {epoch}, {later_epoch} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def _ablation(table: pd.DataFrame, epoch: int) -> str:
    rows = table[(table["statistic"] == "ablation") & (table["epoch"] == epoch)].sort_values("value")
    clear = ((rows["low"] > 0) | (rows["high"] < 0)).sum()
    worst = ", ".join(
        f"{row['module']} head {row['head']} {row['value']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        for _, row in rows.head(3).iterrows()
    )
    return (
        f"Without one head: {clear} of {len(rows)} intervals exclude 0 (about {0.05 * len(rows):.0f} would by chance). "
        f"Largest losses: {worst} (the most extreme of {len(rows)}, hence overstated)."
    )


def _deletion(table: pd.DataFrame) -> str:
    lines = ["| frames left out first by | area under the curve | below random order |", "|---|---|---|"]
    for _, row in table.iterrows():
        gain = f"{row['below_random']:+.3f} ({row['below_random_low']:+.3f} to {row['below_random_high']:+.3f})"
        area_text = f"{row['auc']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        lines.append(f"| {row['method']} | {area_text} | {'' if row['method'] == RANDOM else gain} |")
    return "\n".join(lines)


def _occlusion(table: pd.DataFrame) -> str:
    lines = ["| joints | set to | change | minus as many random joints |", "|---|---|---|---|"]
    for _, row in table.iterrows():
        change_text = f"{row['change']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        against = f"{row['difference']:+.2f} ({row['difference_low']:+.2f} to {row['difference_high']:+.2f})"
        lines.append(f"| {row['group']} ({row['joints']}) | {row['fill']} | {change_text} | {against} |")
    return "\n".join(lines)

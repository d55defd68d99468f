"""The stage of an analysis that sets signs beside words, or says why it was not run."""

from typing import Any

import numpy as np
import pandas as pd

from projects.spoter.batches import to_inputs
from projects.spoter.interpret import language
from projects.spoter.interpret.charts import geometry_chart
from projects.spoter.interpret.representations import layer_outputs
from projects.spoter.interpret.study import Study

NO_WEIGHTS = "not_run: mBERT weights absent"
# Sequences whose attention in the language model is averaged.
_SEQUENCES = 40


def compare_language(study: Study, heads: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """What is to be said about signs beside words, and its files.

    Args:
        study: what is looked at; without a language model the comparison is not run and no number of it appears.
        heads: the head table, for the distributions at equal lengths.
    """
    if study.bert is None:
        files = _status(NO_WEIGHTS)
        if not study.glossed:
            return f"Status: `{NO_WEIGHTS}`.", files
        files["tables/geometry.csv"] = _geometry(study, _held_out_signs(study), {})
        return f"Status: `{NO_WEIGHTS}`. The spelling of the glosses, an anchor, is in `tables/geometry.csv`.", files
    signs = _held_out_signs(study)
    berts = [study.bert]
    if not study.config.language.random_weights:
        berts.append(language.random_twin(study.bert, study.config.seed))
    glosses = [study.names[label] for label in language.present(signs)]
    table = _geometry(study, signs, {bert.name: language.gloss_outputs(bert, glosses) for bert in berts})
    files = _status(f"run: {study.bert.name}") | {
        "tables/geometry.csv": table,
        "tables/head_spread.csv": _spread(study, heads, berts, glosses),
        "figures/geometry.png": geometry_chart(table),
    }
    return _said(table, study.bert.name, signs), files


def _status(text: str) -> dict[str, Any]:
    return {"mbert/status.txt": f"{text}\n"}


def _held_out_signs(study: Study) -> language.Signs:
    """Clips that were not trained on: validation and test together, at the last epoch."""
    parts = (study.splits.validation, study.splits.test)
    model, device = study.model(study.config.epochs[-1]), study.inputs.frames.device
    outputs = []
    for part in parts:
        inputs = to_inputs(part.clips.frames, part.clips.lengths, part.labels, device)
        outputs.append(layer_outputs(model, inputs, study.config.max_frames))
    joined = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
    return language.Signs(joined, np.concatenate([part.labels for part in parts]))


def _geometry(study: Study, signs: language.Signs, models: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    return language.geometry_table(signs, study.names, models, study.config.statistics.permutations, study.config.seed)


def _spread(study: Study, heads: pd.DataFrame, berts: list[language.Bert], glosses: list[str]) -> pd.DataFrame:
    """Head statistics of the encoder beside each model's, at the clips' lengths and at the glosses' own."""
    lengths = study.split.clips.lengths[study.clips][:_SEQUENCES].tolist()
    sequences = {
        "as long as the clips": language.joined_glosses(berts[0], glosses, lengths, study.config.seed),
        "one gloss each": [berts[0].tokenizer(gloss)["input_ids"] for gloss in glosses[:_SEQUENCES]],
    }
    models = {
        f"{bert.name}, {what}": language.head_spread(bert, several)
        for what, several in sequences.items()
        for bert in berts
    }
    last = heads[(heads["epoch"] == study.config.epochs[-1]) & (heads["stack"] == "enc")]
    values_by_statistic = {
        name: last.loc[last["statistic"] == name, "value"].to_numpy() for name in ("entropy", "distance")
    }
    return language.spread_table(values_by_statistic, models)


def _said(table: pd.DataFrame, model: str, signs: language.Signs) -> str:
    """The comparison that was fixed beforehand: the last layer of each; all others are in the table."""
    sign_layer, model_rows = list(signs.outputs)[-1], table[table["model"] == model]
    row = model_rows[
        (model_rows["sign_layer"] == sign_layer) & (model_rows["layer"] == model_rows["layer"].max())
    ].iloc[0]
    if not np.isfinite(row["rsa"]):
        return f"{model}: {row['classes']} glosses are too few, or too alike, for a comparison."
    return (
        f"{model}, last layer, beside {sign_layer} over {row['classes']} glosses (validation and test clips): RSA "
        f"{row['rsa']:+.3f} (permutation p {row['rsa_p']:.3f}, noise ceiling {row['ceiling']:.2f}), debiased CKA "
        f"{row['cka']:+.3f} (p {row['cka_p']:.3f}). All layers, with q-values and nulls: `tables/geometry.csv`; "
        "heads at equal lengths: `tables/head_spread.csv`. Which head is whose counterpart cannot be said."
    )

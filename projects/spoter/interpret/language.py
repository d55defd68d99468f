"""Signs beside words: the network's classes and a multilingual BERT's glosses.

What can be compared: the geometry of the items (RSA, debiased CKA) and the distributions of head statistics
at equal lengths. What cannot: which head of one is which head of the other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control, ks_2samp

import labtrail as lt
from labtrail.statistics import cka_test, dissimilarities, entropy, rdm_correlation, rsa_test

_HALVES = 50
_FOLDER = "config.json, model.safetensors and the tokenizer's files (tokenizer.json or vocab.txt)"
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model")
_TOKENIZER_FILES = (*_VOCABULARIES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class Signs(NamedTuple):
    """Clips with representations; each layer -> (clips, width), and the class of each clip."""

    outputs: Mapping[str, np.ndarray]
    labels: np.ndarray


def class_means(outputs: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Mean representation of each class, (classes, width)."""
    return np.stack([outputs[labels == label].mean(axis=0) for label in classes])


def noise_ceiling(outputs: np.ndarray, labels: np.ndarray, seed: int, halves: int = _HALVES) -> float:
    """The RSA that a perfect model of the classes could reach, given how few clips a class has.

    Random halves of the clips of each class give two dissimilarity matrices; their correlation, corrected for
    length (Spearman-Brown), is the reliability, and its square root the ceiling. NaN with fewer than 4 classes
    of two clips or more.
    """
    generator = np.random.default_rng(seed)
    classes = [int(label) for label in np.unique(labels) if (labels == label).sum() >= 2]
    if len(classes) < 4:
        return float("nan")
    correlations = []
    for _ in range(halves):
        sides: list[list[np.ndarray]] = [[], []]
        for label in classes:
            rows = generator.permutation(np.flatnonzero(labels == label))
            middle = len(rows) // 2
            for side, part in zip(sides, (rows[:middle], rows[middle:]), strict=True):
                side.append(outputs[part].mean(axis=0))
        correlations.append(rdm_correlation(*(dissimilarities(np.stack(side)) for side in sides)))
    correlation = float(np.mean(correlations))
    if not np.isfinite(correlation):
        return float("nan")
    return float(np.sqrt(max(0.0, 2 * correlation / (1 + correlation))))


def edit_distances(words: Sequence[str]) -> np.ndarray:
    """Levenshtein distance over the longer length, (n, n): how alike glosses are spelt, an anchor without weights."""
    distances = np.zeros((len(words), len(words)))
    for i, word in enumerate(words):
        for j in range(i):
            distances[i, j] = distances[j, i] = _levenshtein(word, words[j]) / max(len(word), len(words[j]), 1)
    return distances


def _levenshtein(first: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


class Bert(NamedTuple):
    """A language model with eager attention, and its tokenizer."""

    name: str
    model: Any
    tokenizer: Any


def model_source(folder: Path) -> lt.DataSource:
    """How a run names a language model's folder: its weights and config by their digest.

    Raises:
        DataError: no weights or no config there.
    """
    config = folder / "config.json"
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    tokenizer = sorted(path for name in _TOKENIZER_FILES for path in folder.glob(name))
    vocabulary = [path for path in tokenizer if path.name in _VOCABULARIES]
    if not (config.is_file() and weights and vocabulary):
        raise lt.DataError(f"{folder}: no language model with its tokenizer here; mbert names a folder with {_FOLDER}")
    digest = lt.fingerprint([(path.name, lt.sha256_of(path)) for path in (config, *weights, *tokenizer)])
    return lt.DataSource(folder.name, "language model", str(folder), digest)


def load_bert(folder: Path, random_weights: bool) -> Bert:
    """A model from a local folder; nothing is ever downloaded.

    Raises:
        DataError: the folder does not hold a model with its tokenizer.
    """
    from transformers import AutoModel, AutoTokenizer

    model_source(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model, loading = AutoModel.from_pretrained(
            str(folder), local_files_only=True, attn_implementation="eager", output_loading_info=True
        )
    # A damaged file of another library's format may raise anything; its own words are passed on.
    except Exception as error:
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise lt.DataError(
            f"{folder}: not a readable language model: {text}; mbert names a folder with {_FOLDER}"
        ) from error
    # Weights that are not in the file would be drawn at random, and their numbers look like any others.
    absent = sorted(name for name in loading["missing_keys"] if not name.startswith("pooler."))
    absent += sorted(str(name) for name in loading["mismatched_keys"])
    if absent:
        raise lt.DataError(
            f"{folder}: the weights do not belong to config.json: {len(absent)} tensors are missing, the first is "
            f"{absent[0]}; fetch the model again"
        )
    name = f"{folder.name} (RANDOM WEIGHTS, a null)" if random_weights else folder.name
    return Bert(name, model.eval(), tokenizer)


def random_twin(bert: Bert, seed: int) -> Bert:
    """The same architecture with freshly drawn weights: the null beside real weights."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    model = AutoModel.from_config(bert.model.config, attn_implementation="eager")
    return Bert("same architecture, random weights (null)", model.eval(), bert.tokenizer)


@torch.inference_mode()
def gloss_outputs(bert: Bert, glosses: Sequence[str]) -> dict[str, np.ndarray]:
    """Mean over a gloss's own tokens at each layer: ``layer_00`` (embeddings) .. -> (glosses, width).

    Raises:
        DataError: the tokenizer knows none of the glosses.
    """
    pieces = [bert.tokenizer(gloss, add_special_tokens=False)["input_ids"] for gloss in glosses]
    if all(piece in ([], [bert.tokenizer.unk_token_id]) for piece in pieces):
        raise lt.DataError(
            f"{bert.name}: the tokenizer knows none of the {len(glosses)} glosses; is it this model's own?"
        )
    rows: list[list[np.ndarray]] = []
    for gloss in glosses:
        encoded = bert.tokenizer(gloss, return_tensors="pt", return_special_tokens_mask=True)
        is_word = encoded.pop("special_tokens_mask")[0] == 0
        states = bert.model(**encoded, output_hidden_states=True).hidden_states
        rows.append([state[0, is_word].mean(dim=0).double().numpy() for state in states])
    return {f"layer_{index:02d}": np.stack(layer) for index, layer in enumerate(zip(*rows, strict=True))}


def geometry_table(
    signs: Signs, names: Sequence[str], models: Mapping[str, Mapping[str, np.ndarray]], permutations: int, seed: int
) -> pd.DataFrame:
    """RSA and debiased CKA of every sign layer with every layer of every model.

    Args:
        signs: representations of clips.
        names: the gloss of each class, for the spelling anchor.
        models: model -> layer -> (classes present, width), rows in the order of ``present(signs)``.
        permutations, seed: of both tests.

    Returns:
        Columns sign_layer, model, layer, rsa, rsa_p, ceiling, cka, cka_p, rsa_q, cka_q (Benjamini & Hochberg over
        the table), classes. The model ``spelling`` is the edit distance of the glosses and has no CKA.
    """
    classes = present(signs)
    spelling = edit_distances([names[label] for label in classes])
    rows = []
    for sign_layer, outputs in signs.outputs.items():
        means = class_means(outputs, signs.labels, classes)
        model_distances = dissimilarities(means)
        ceiling = noise_ceiling(outputs, signs.labels, seed)
        rsa, p = rsa_test(model_distances, spelling, permutations, seed)
        rows.append((sign_layer, "spelling", "", rsa, p, ceiling, np.nan, np.nan))
        for model, layers in models.items():
            for layer, states in layers.items():
                rsa, p = rsa_test(model_distances, dissimilarities(states), permutations, seed)
                cka, cka_p = cka_test(means, states, permutations, seed)
                rows.append((sign_layer, model, layer, rsa, p, ceiling, cka, cka_p))
    columns = ["sign_layer", "model", "layer", "rsa", "rsa_p", "ceiling", "cka", "cka_p"]
    table = pd.DataFrame(rows, columns=columns)
    for name in ("rsa", "cka"):
        tested = table[f"{name}_p"].notna()
        table[f"{name}_q"] = np.nan
        if tested.any():
            table.loc[tested, f"{name}_q"] = false_discovery_control(table.loc[tested, f"{name}_p"])
    return table.assign(classes=len(classes))


def present(signs: Signs) -> list[int]:
    """The classes that have clips, ascending."""
    return sorted(set(signs.labels.tolist()))


def joined_glosses(bert: Bert, glosses: Sequence[str], lengths: Sequence[int], seed: int) -> list[list[int]]:
    """Token sequences of given lengths: glosses drawn at random and joined, the last one cut; with special tokens."""
    generator = np.random.default_rng(seed)
    limit = int(getattr(bert.model.config, "max_position_embeddings", 512))
    pieces = [bert.tokenizer(gloss, add_special_tokens=False)["input_ids"] for gloss in glosses]
    names = []
    for wanted in lengths:
        length = max(3, min(int(wanted), limit))
        tokens: list[int] = []
        while len(tokens) < length - 2:
            tokens += pieces[int(generator.integers(len(pieces)))]
        names.append([bert.tokenizer.cls_token_id, *tokens[: length - 2], bert.tokenizer.sep_token_id])
    return names


@torch.inference_mode()
def head_spread(bert: Bert, sequences: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Entropy / log T and relative distance of every head, means over token sequences.

    Columns layer, head, entropy, distance. Both depend on the length of a sequence, so compare equal lengths.
    """
    values = []
    for tokens in sequences:
        length = len(tokens)
        gaps = np.abs(np.arange(length)[:, None] - np.arange(length))
        attentions = bert.model(torch.tensor([list(tokens)]), output_attentions=True).attentions
        weights = [attention[0].double().numpy() for attention in attentions]
        values.append(
            [
                [entropy(weight).mean(1) / np.log(length), (weight * gaps).sum(-1).mean(1) / gaps.mean()]
                for weight in weights
            ]
        )
    means = np.mean(values, axis=0)
    layer, head = np.indices((means.shape[0], means.shape[2])).reshape(2, -1)
    return pd.DataFrame({"layer": layer, "head": head, "entropy": means[:, 0].ravel(), "distance": means[:, 1].ravel()})


def spread_table(signs: Mapping[str, np.ndarray], models: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Distributions over heads beside each other: quantiles, and a two-sample Kolmogorov-Smirnov test.

    Args:
        signs: statistic (``entropy``, ``distance``) -> one value per encoder head of the sign network.
        models: model at some lengths -> its ``head_spread``.

    Returns:
        Columns statistic, model, heads, q05, q25, q50, q75, q95, ks, ks_p (against the sign network).
    """
    rows = []
    for statistic, sign_values in signs.items():
        rows.append((statistic, "sign network", len(sign_values), *_quantiles(sign_values), np.nan, np.nan))
        for model, table in models.items():
            values = table[statistic].to_numpy()
            test = ks_2samp(sign_values, values)
            rows.append((statistic, model, len(values), *_quantiles(values), test.statistic, test.pvalue))
    quantiles = ["q05", "q25", "q50", "q75", "q95"]
    return pd.DataFrame(rows, columns=["statistic", "model", "heads", *quantiles, "ks", "ks_p"])


def _quantiles(values: np.ndarray) -> list[float]:
    return np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()

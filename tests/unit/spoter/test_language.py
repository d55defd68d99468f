"""Signs beside words: a tiny BERT with RANDOM WEIGHTS stands in for the real one, as a labelled null."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save

from labtrail.errors import DataError
from labtrail.statistics import dissimilarities
from projects.spoter.config import AnalysisConfig, LanguageConfig
from projects.spoter.interpret import language
from projects.spoter.interpret.comparison import NO_WEIGHTS, compare_language
from projects.spoter.interpret.heads import head_table, head_values
from projects.spoter.interpret.study import Study
from tests.unit.spoter.study import memory_study

GLOSSES = ["book", "drink", "computer", "before", "chair"]


def save_tiny_bert(folder: Path) -> Path:
    """A BERT of random weights with a character tokenizer, as transformers would save a real one."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(exist_ok=True)
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bert(tmp_path_factory.mktemp("models") / "tiny")


def test_gloss_outputs_leave_special_tokens_out(bert_folder: Path) -> None:
    bert = language.load_bert(bert_folder, random_weights=True)
    assert "RANDOM WEIGHTS" in bert.name
    found = language.gloss_outputs(bert, GLOSSES)
    assert list(found) == ["layer_00", "layer_01", "layer_02"]
    assert found["layer_02"].shape == (5, 24)
    encoded = bert.tokenizer("book", return_tensors="pt")
    states = bert.model(**encoded, output_hidden_states=True).hidden_states[2][0].detach().double().numpy()
    np.testing.assert_allclose(found["layer_02"][0], states[1:-1].mean(0), rtol=1e-5)


def test_heads_are_measured_at_the_lengths_that_were_asked(bert_folder: Path) -> None:
    bert = language.load_bert(bert_folder, random_weights=True)
    sequences = language.joined_glosses(bert, GLOSSES, [8, 30, 500], seed=0)
    # 500 is more than this model has positions for.
    assert [len(sequence) for sequence in sequences] == [8, 30, 40]
    assert all(sequence[0] == bert.tokenizer.cls_token_id for sequence in sequences)
    table = language.head_spread(bert, sequences)
    assert len(table) == 2 * 3
    assert table["entropy"].between(0, 1).all()
    assert table["distance"].between(0.5, 1.5).all()


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    for read in (language.model_source, partial(language.load_bert, random_weights=False)):
        with pytest.raises(DataError, match=f"{tmp_path}: no language model"):
            read(tmp_path)


def test_weights_decide_a_models_digest(bert_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bert_folder, tmp_path / "copy")
    assert language.model_source(other).digest == language.model_source(bert_folder).digest
    (other / "model.safetensors").write_bytes(b"others")
    assert language.model_source(other).digest != language.model_source(bert_folder).digest


def damaged(folder: Path, bert_folder: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(bert_folder, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"nonsense"),
        ("config.json", b"[]"),
        ("tokenizer.json", b'{"x": 1}'),
        ("config.json", None),
        ("model.safetensors", None),
    ],
)
def test_damaged_folder_is_refused_in_one_line(
    name: str, content: bytes | None, bert_folder: Path, tmp_path: Path
) -> None:
    folder = damaged(tmp_path / "bert", bert_folder, name, content)
    with pytest.raises(DataError, match=r"bert: (not a readable|no) language model") as caught:
        language.load_bert(folder, random_weights=False)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_never_drawn_at_random(bert_folder: Path, tmp_path: Path) -> None:
    weights = {f"x.{name}": tensor for name, tensor in load_file(bert_folder / "model.safetensors").items()}
    folder = damaged(tmp_path / "bert", bert_folder, "model.safetensors", save(weights))
    with pytest.raises(DataError, match="the weights do not belong to"):
        language.load_bert(folder, random_weights=False)


def test_folder_without_a_tokenizer_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    folder = damaged(tmp_path / "bert", bert_folder, "tokenizer.json", None)
    (folder / "vocab.txt").unlink(missing_ok=True)
    with pytest.raises(DataError, match="no language model with its tokenizer"):
        language.load_bert(folder, random_weights=False)


def test_glosses_that_the_tokenizer_does_not_know_are_refused(bert_folder: Path) -> None:
    bert = language.load_bert(bert_folder, random_weights=True)
    with pytest.raises(DataError, match="knows none of the 2 glosses"):
        language.gloss_outputs(bert, ["书", "喝"])


def signs(noise: float, clips: int = 4, width: int = 12) -> language.Signs:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(GLOSSES) * 3), clips)
    means = generator.normal(size=(len(GLOSSES) * 3, width))
    outputs = means[labels] + noise * generator.normal(size=(len(labels), width))
    return language.Signs({"dec_5": outputs}, labels)


def test_noise_ceiling_falls_with_noise_and_needs_repeats() -> None:
    quiet, loud = (
        language.noise_ceiling(signs(noise).outputs["dec_5"], signs(noise).labels, 0) for noise in (0.1, 2.0)
    )
    assert 0 <= loud < quiet <= 1
    assert quiet > 0.97
    single = signs(0.1, clips=1)
    assert np.isnan(language.noise_ceiling(single.outputs["dec_5"], single.labels, 0))


def test_geometry_finds_what_is_there_and_nothing_in_the_null() -> None:
    own = signs(0.1)
    classes = language.present(own)
    means = language.class_means(own.outputs["dec_5"], own.labels, classes)
    models = {
        "same": {"layer_00": means @ np.random.default_rng(1).normal(size=(12, 40))},
        "other": {"layer_00": np.random.default_rng(2).normal(size=(15, 40))},
    }
    names = [f"word{label}" for label in classes]
    table = language.geometry_table(own, names, models, 199, 0).set_index("model")
    assert table.loc["same", "rsa_p"] == pytest.approx(1 / 200)
    assert table.loc["same", "cka"] > 0.5
    assert table.loc["other", "rsa_p"] > 0.05
    assert table.loc["other", "cka_p"] > 0.05
    assert np.isnan(table.loc["spelling", "cka"])


def test_edit_distances_by_hand() -> None:
    found = language.edit_distances(["kitten", "sitting", "kitten", ""])
    assert found[0, 1] == pytest.approx(3 / 7)
    assert found[0, 2] == 0
    assert found[0, 3] == 1
    np.testing.assert_array_equal(found, found.T)


def heads_of(study: Study) -> pd.DataFrame:
    content = [study.normalised(clip) for clip in range(8)]
    tables = []
    for epoch, file in study.files.items():
        values = head_values(file, content, study.clips, 0)
        tables.append(head_table(epoch, file.modules, values, values, 100, 0))
    return pd.concat(tables)


def test_comparison_without_weights_prints_no_number(tmp_path: Path) -> None:
    study = memory_study(tmp_path)
    said, files = compare_language(study, heads_of(study))
    assert NO_WEIGHTS == "not_run: mBERT weights absent"
    assert files["mbert/status.txt"] == f"{NO_WEIGHTS}\n"
    assert not any(character.isdigit() for character in said)
    assert set(files["tables/geometry.csv"]["model"]) == {"spelling"}
    assert "tables/head_spread.csv" not in files


def test_comparison_without_glosses_has_the_same_status(tmp_path: Path) -> None:
    study = memory_study(tmp_path)
    said, files = compare_language(replace(study, glossed=False), pd.DataFrame())
    assert NO_WEIGHTS in said
    assert files == {"mbert/status.txt": f"{NO_WEIGHTS}\n"}


@pytest.mark.parametrize("random_weights", [True, False])
def test_comparison_labels_its_null(random_weights: bool, tmp_path: Path, bert_folder: Path) -> None:
    config = AnalysisConfig(epochs=(1, 2), mbert=bert_folder, language=LanguageConfig(random_weights=random_weights))
    study = replace(memory_study(tmp_path, config), bert=language.load_bert(bert_folder, random_weights))
    said, files = compare_language(study, heads_of(study))
    models = set(files["tables/geometry.csv"]["model"]) - {"spelling"}
    assert all("null" in name for name in models) == random_weights
    assert sum("null" in name for name in models) == 1
    assert ("RANDOM WEIGHTS" in said) == random_weights
    spread = files["tables/head_spread.csv"]
    assert set(spread["statistic"]) == {"entropy", "distance"}
    assert spread.loc[spread["model"] != "sign network", "ks_p"].between(0, 1).all()


def test_dissimilarity_of_an_item_with_itself_is_zero() -> None:
    assert np.diag(dissimilarities(np.random.default_rng(0).normal(size=(5, 7)))).tolist() == [0] * 5

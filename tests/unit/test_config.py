"""From YAML and overrides to a frozen config, or one line per problem."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from labtrail.config import (
    Config,
    Neutral,
    Section,
    describe,
    fingerprint,
    flatten,
    load_config,
    to_yaml,
)
from labtrail.errors import ConfigError


class Loss(Section):
    """A section."""

    alpha: float = Field(default=0.5, ge=0, le=1)
    """share of the extra loss"""
    kind: Literal["logit", "no"] = "logit"
    """which loss"""


class SampleConfig(Config):
    """A config."""

    loss: Loss = Loss()
    epochs: int = Field(default=3, ge=1)
    """epochs"""
    milestones: tuple[int, ...] = (1, 2)
    """epochs to keep"""
    clip: float | None = None
    """largest norm"""
    name: str = "x"
    """a name"""


def load(tmp_path: Path, text: str, *overrides: tuple[str, str]) -> SampleConfig:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    return load_config(SampleConfig, path, overrides)


def problems(tmp_path: Path, text: str, *overrides: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    assert caught.value.exit_status == 2
    return [line.replace(f"{tmp_path}/", "") for line in caught.value.problems]


def test_values_and_overrides_are_typed(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "loss: {alpha: 1e-3}\nmilestones: [4, 8]\n",
        ("epochs", "7"),
        ("loss.kind", "no"),
        ("clip", "1e-2"),
        ("seed", "3"),
        ("name", "on"),
    )
    assert config.loss.alpha == 1e-3
    assert (config.epochs, config.loss.kind, config.clip, config.seed) == (7, "no", 0.01, 3)
    assert config.milestones == (4, 8)
    assert config.name == "on"
    assert load(tmp_path, "clip: 1.0", ("clip", "null")).clip is None
    assert load(tmp_path, "", ("milestones", "[5]")).milestones == (5,)


def test_config_is_frozen(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    with pytest.raises(ValidationError, match="frozen"):
        config.epochs = 4  # ty: ignore[invalid-assignment]


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("loss: {alfa: 0.3}", [], ["a.yaml: loss.alfa: unknown key (did you mean 'alpha'?)"]),
        ("", [("epoch", "3")], ["--epoch: unknown key (did you mean 'epochs'?)"]),
        (
            "zzz: 1",
            [],
            ["a.yaml: zzz: unknown key (valid: seed, compute, checkpoint, loss, epochs, milestones, clip, name)"],
        ),
        ("epochs: many", [], ["a.yaml: epochs: input should be a valid integer"]),
        ("epochs: 0", [], ["a.yaml: epochs: input should be greater than or equal to 1, found 0"]),
        ("", [("loss.alpha", "1.5")], ["--loss.alpha: input should be less than or equal to 1, found 1.5"]),
        ("loss: {kind: no}", [], ["a.yaml: loss.kind: input should be 'logit' or 'no', found False (YAML reads"]),
        ("loss: {alpha: .nan}", [], ["a.yaml: loss.alpha: input should be a finite number"]),
        ("loss: {alpha: .inf}", [], ["a.yaml: loss.alpha: input should be"]),
        ("epochs: 1\nepochs: 2", [], ["a.yaml: line 2: epochs: key given twice"]),
        ("epochs: [", [], ["a.yaml: not valid YAML"]),
        ("- 1", [], ["a.yaml: expected keys and values, found a list"]),
        ("loss: 3", [], ["a.yaml: loss: input should be"]),
        ("", [("epochs.x", "3")], ["--epochs.x"]),
        ("epochs: 0\nclip: a", [("loss.alfa", "1")], ["a.yaml: epochs", "a.yaml: clip", "--loss.alfa"]),
    ],
)
def test_each_problem_is_one_line(
    text: str, overrides: list[tuple[str, str]], expected: list[str], tmp_path: Path
) -> None:
    found = problems(tmp_path, text, *overrides)
    assert len(found) == len(expected)
    assert all("\n" not in line for line in found)
    for wanted in expected:
        assert any(line.startswith(wanted) for line in found), found


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such config file \(did you mean '.*digits.yaml'\?\)"):
        load_config(SampleConfig, tmp_path / "digit.yaml")


def test_yaml_never_builds_objects(tmp_path: Path) -> None:
    assert "not valid YAML" in problems(tmp_path, "name: !!python/object/apply:os.getcwd []")[0]


def test_flatten_describe_and_round_trip(tmp_path: Path) -> None:
    config = load(tmp_path, "loss: {alpha: 0.25}")
    assert flatten(config)["loss.alpha"] == 0.25
    assert [key for key, _, _ in describe(SampleConfig)] == list(flatten(config))
    assert ("loss.alpha", "0.5", "share of the extra loss") in list(describe(SampleConfig))
    assert all(text for _, _, text in describe(SampleConfig))
    assert load(tmp_path, to_yaml(config)) == config


@given(st.floats(0, 1), st.integers(1, 10**6), st.text(max_size=20))
def test_any_config_survives_yaml(alpha: float, epochs: int, name: str) -> None:
    config = SampleConfig(loss=Loss(alpha=alpha), epochs=epochs, name=name)
    assert SampleConfig.model_validate(yaml.safe_load(to_yaml(config))) == config


def test_fingerprint_changes_with_every_part() -> None:
    base = fingerprint("task", SampleConfig(), ["digest"], 1)
    others = [
        fingerprint("other", SampleConfig(), ["digest"], 1),
        fingerprint("task", SampleConfig(epochs=4), ["digest"], 1),
        fingerprint("task", SampleConfig(), ["other"], 1),
        fingerprint("task", SampleConfig(), ["digest"], 2),
    ]
    assert len({base, *others}) == 5
    assert base == fingerprint("task", SampleConfig(), ["digest"], 1)


class Before(Config):
    rate: float = 0.1


class Averaging(Section):
    decay: float = 0.99


class Inner(Section):
    width: int = 4
    depth: Annotated[int, Neutral] = 2


class WithInner(Config):
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = (Inner(),)
    named: dict[str, Inner] = {"a": Inner()}  # noqa: RUF012 pydantic copies it


def test_a_neutral_field_at_its_default_is_no_part_of_the_identity() -> None:
    class After(Config):
        rate: float = 0.1
        averaging: Annotated[Averaging | None, Neutral] = None

    assert fingerprint(After()) == fingerprint(Before())
    assert fingerprint("task", After(seed=3), [1], 2) == fingerprint("task", Before(seed=3), [1], 2)
    assert fingerprint(After(averaging=Averaging())) != fingerprint(Before())
    assert fingerprint(After(averaging=Averaging())) != fingerprint(After(averaging=Averaging(decay=0.9)))


def test_neutral_fields_are_left_out_however_deep_they_lie() -> None:
    plain = {"width": 4}
    # What compute was before it had fields that are neutral.
    compute = {"precision": "no", "threads": 1}
    whole = {"seed": 0, "compute": compute, "inner": plain, "parts": [plain], "named": {"a": plain}}
    assert fingerprint(WithInner()) == fingerprint(whole)
    deep = Inner(depth=3)
    for changed in (WithInner(inner=deep), WithInner(parts=(deep,)), WithInner(named={"a": deep})):
        assert fingerprint(changed) != fingerprint(WithInner())

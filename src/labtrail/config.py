"""From YAML and ``--a.b value`` overrides to one frozen, typed config, or to one line per problem.

Why: docs/decisions/045-field-help-read-late.md
"""

import ast
import difflib
import hashlib
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from labtrail.errors import ConfigError


def listed(value: Any) -> Any:
    """``10,50`` and ``10`` as lists: how people write several values on a command line."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def written(value: Any) -> Any:
    """A name that YAML takes for a number or a day, as it was written."""
    return str(value) if isinstance(value, int | float | date) and not isinstance(value, bool) else value


class NeutralMark:
    """Leaves a field out of the identity of work as long as it has its default.

    A field that is added to a config later is written ``ema: Annotated[Ema | None, Neutral] = None``: all that was done
    before has the key that it had. The default must not change any more, for it stands for that work.
    """


Neutral = NeutralMark()


Text = Annotated[str, BeforeValidator(written)]
Integers = Annotated[tuple[int, ...], BeforeValidator(listed)]
Words = Annotated[tuple[str, ...], BeforeValidator(listed)]


class Section(BaseModel):
    """Base of every part of a config: frozen, and unknown keys are errors.

    The docstring under each field is its help text: one line with meaning and unit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class Compute(Section):
    """How a task uses the machine; every task config has it as ``compute``."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """mixed precision: no (float32), bf16 or fp16 (fp16 needs a GPU)"""
    threads: int | None = Field(default=1, ge=1, le=1024)
    """CPU threads of torch in each process; fixed, because sums depend on it; empty: torch decides"""
    deterministic: Annotated[bool, Neutral] = False
    """on a GPU: only kernels that repeat to the bit where there are any (a warning names the others); slower"""
    tf32: Annotated[bool | None, Neutral] = None
    """on a GPU: whether float32 products and convolutions may use TF32; empty: torch decides"""


class Checkpointing(Section):
    """When a task's training state is saved, and how much of it is kept; every task config has it as ``checkpoint``."""

    every: Annotated[str | None, BeforeValidator(written), Neutral] = Field(
        default=None, pattern=r"^[1-9][0-9]{0,8} ?(steps?|s|min)?$"
    )
    """saved inside an epoch as well, where the task has steps: every 500 steps, 30 s or 10 min; empty: after epochs"""
    keep: Annotated[Literal[1, 2], Neutral] = 2
    """whole states that are kept: 2 in case the newest is found damaged, 1 for large ones"""


class Remat(Section):
    """Recomputation in training; every task config that supports it has it as ``remat``."""

    memory: float | None = Field(default=None, gt=0)
    """peak of forward and backward pass that may be needed: up to 1 a share, above bytes; empty: all"""


class Config(Section):
    """What every task config has."""

    seed: int = Field(default=0, ge=0, lt=2**31)
    """seed of weights, data order and augmentation"""
    compute: Compute = Compute()
    checkpoint: Annotated[Checkpointing, Neutral] = Checkpointing()


ConfigT = TypeVar("ConfigT", bound=Config)
Settings = TypeVar("Settings", bound=Section)


# The same in C, where PyYAML was built with it: a round has hundreds of cells, each with values to read.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _StrictLoader(_SafeLoader):
    """Safe YAML in which a repeated key is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise ConfigError([f"line {node.value[position][0].start_mark.line + 1}: {key}: key given twice"])
        return super().construct_mapping(node, deep)


def load_config(cls: type[ConfigT], path: Path | None, overrides: Sequence[tuple[str, str]] = ()) -> ConfigT:
    """Reads a YAML file, applies overrides and validates.

    Args:
        cls: the task's config class.
        path: YAML file of values only; None: the defaults of the class.
        overrides: (dotted key, text) pairs; the text is read as a YAML value.

    Raises:
        ConfigError: with one line per problem, each naming the file or the option, the key and the value.
    """
    values = _read(path) if path else {}
    origin: dict[str, str] = {}
    for key, text in overrides:
        _assign(values, key, _value(text))
        origin[key] = f"--{key}"
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = [_describe(cls, path, origin, problem) for problem in error.errors(include_url=False)]
        raise ConfigError(problems) from None


def load_json(cls: type[Settings], path: Path) -> Settings:
    """Reads a JSON file and validates.

    Raises:
        ConfigError: with one line per problem, each naming the file, the key and the value.
    """
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.json"))
        raise ConfigError([f"{path}: no such file{choices(path.name, near) if near else ''}"])
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError([f"{path}: not valid JSON: {error}"]) from None
    return validated(cls, values, path)


def validated(cls: type[Settings], values: Any, path: Path | None = None) -> Settings:
    """
    Args:
        cls: what the values are.
        values: as read.
        path: file that they come from.

    Raises:
        ConfigError: with one line per problem.
    """
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: expected keys and values, found a {type(values).__name__}"])
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise ConfigError([_describe(cls, path, {}, problem) for problem in problems]) from None


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(str(other) for other in path.parent.glob("*.yaml"))
        raise ConfigError([f"{path}: no such config file{choices(path.name, near) if near else ''}"])
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 a SafeLoader
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: expected keys and values, found a {type(values).__name__}"])
    return values


def _value(text: str) -> Any:
    """The YAML value of an override; words such as ``no`` and ``on`` stay words."""
    try:
        value = yaml.load(text, Loader=_SafeLoader)  # noqa: S506 a SafeLoader
    except yaml.YAMLError:
        return text
    return text if isinstance(value, bool) and text.lower() not in ("true", "false") else value


def text_of(value: Any) -> str:
    """A value as the text of an override that is read back as the same value."""
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else str(value)


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError([f"--{key}: {parent} is a value, not a section"])
        values = inner
    values[last] = value


def _describe(cls: type[BaseModel], path: Path | None, origin: Mapping[str, str], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    # A section may be refused for a value in it, and a value for a part of it.
    related = (option for name, option in origin.items() if _is_within(name, key) or _is_within(key, name))
    option_of_key = next(related, None)
    where = f"{option_of_key}:" if option_of_key else f"{path}: {key}:" if path else f"{key}:"
    if problem["type"] == "extra_forbidden":
        section = _section_at(cls, location[:-1])
        names = list(section.model_fields) if section else []
        return f"{where} unknown key{choices(location[-1], names)}"
    if problem["type"] == "missing":
        return f"{where} missing; it has no default"
    hint = " (YAML reads an unquoted no as false: quote it)" if problem["input"] is False else ""
    return f"{where} {problem['msg'][0].lower()}{problem['msg'][1:]}, found {problem['input']!r}{hint}"


def _is_within(key: str, section: str) -> bool:
    return f"{key}.".startswith(f"{section}.")


def choices(name: str, valid: Sequence[str]) -> str:
    """Words for a message about an unknown name: the nearest valid one, or all of them."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6) or [
        other
        for other in valid
        if Path(other).name in difflib.get_close_matches(name, [Path(v).name for v in valid], 1)
    ]
    return f" (did you mean {close[0]!r}?)" if close else f" (valid: {', '.join(valid)})"


def _section_at(cls: type[BaseModel], location: Sequence[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = cls
    for name in location:
        field = current.model_fields.get(name) if current else None
        current = _section_of(field.annotation) if field else None
    return current


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType):
        return next((inner for inner in map(_section_of, get_args(annotation)) if inner), None)
    return None


def flatten(config: BaseModel) -> dict[str, Any]:
    """The values of a config under dotted keys."""

    def walk(section: BaseModel, prefix: str) -> Iterator[tuple[str, Any]]:
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                yield from walk(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    return dict(walk(config, ""))


def describe(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, help text) of every value a config has, for ``--help``."""
    texts = {name: text for base in reversed(cls.__mro__) for name, text in _field_docstrings(base).items()}
    for name, field in cls.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from describe(inner, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else _as_yaml(field.get_default(call_default_factory=True))
            yield f"{prefix}{name}", default, field.description or texts.get(name, "")


@cache
def _field_docstrings(cls: type) -> dict[str, str]:
    """Field -> the docstring under it, of one class by itself.

    Read from the source, and only where help is asked for: pydantic's own reading of it costs every start of a task
    some tenths of a second, since it looks through all loaded modules for each class.
    """
    if not issubclass(cls, Section) or cls is Section:
        return {}
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    texts = {}
    for field, text in itertools.pairwise(getattr(definition, "body", [])):
        is_text = (
            isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        )
        if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            texts[field.target.id] = inspect.cleandoc(text.value.value)
    return texts


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    return "" if value is None else str(value)


def to_yaml(config: BaseModel) -> str:
    """The config as the YAML that would load it again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def neutral_fields(cls: type[BaseModel]) -> dict[str, Any]:
    """Names and defaults of the fields that are left out of the identity of work while they have these defaults."""
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in cls.model_fields.items()
        if any(isinstance(mark, NeutralMark) for mark in field.metadata)
    }


def _identifying(value: Any, dumped: Any) -> Any:
    """What is dumped of a value, without neutral fields that have their default, however deep they lie.

    Args:
        value: a config, or a part of one.
        dumped: the same as JSON-like values.
    """
    if isinstance(value, BaseModel):
        neutral = neutral_fields(type(value))
        names = [name for name in dumped if name not in neutral or getattr(value, name) != neutral[name]]
        return {name: _identifying(getattr(value, name), dumped[name]) for name in names}
    if isinstance(value, list | tuple):
        return [_identifying(*pair) for pair in zip(value, dumped, strict=True)]
    if isinstance(value, Mapping):
        return {key: _identifying(part, dumped[key]) for key, part in zip(dumped, value.values(), strict=True)}
    return dumped


def fingerprint(*parts: Any) -> str:
    """A short identity of JSON-like values and configs, 16 hexadecimal digits."""
    plain = [
        _identifying(part, part.model_dump(mode="json")) if isinstance(part, BaseModel) else part for part in parts
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]

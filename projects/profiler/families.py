"""The models that can be named in a config: architectures with random weights, and those of this repository.

Images are random noise and tokens random integers: memory and time do not depend on them.

Why: docs/decisions/030-models-by-example.md
"""

import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import labtrail as lt
from labtrail.config import text_of
from labtrail.stepgraph import compat
from projects.profiler.tiny import tiny_example

Settings = Mapping[str, Any]


class Sizes(NamedTuple):
    """The shape of a batch.

    Attributes:
        batch: samples.
        sequence: tokens of a sample, where it has tokens.
        image: pixels along one side, where it has pixels.
    """

    batch: int
    sequence: int
    image: int


class Family(NamedTuple):
    """An architecture of transformers.

    Attributes:
        model, config: names of the classes.
        settings: of the config, where its defaults are another model's.
        batch: (sizes, config) to keyword arguments of the model; it returns a loss.
    """

    model: str
    config: str
    settings: Settings
    batch: Callable[[Sizes, Any], dict[str, Tensor]]


def _tokens(sizes: Sizes, config: Any) -> Tensor:
    return torch.randint(0, config.vocab_size, (sizes.batch, sizes.sequence))


def _causal(sizes: Sizes, config: Any) -> dict[str, Tensor]:
    return {"input_ids": _tokens(sizes, config), "labels": _tokens(sizes, config)}


def _masked(sizes: Sizes, config: Any) -> dict[str, Tensor]:
    return {**_causal(sizes, config), "attention_mask": torch.ones(sizes.batch, sizes.sequence, dtype=torch.int64)}


def _images(sizes: Sizes, config: Any) -> dict[str, Tensor]:
    return {
        "pixel_values": torch.randn(sizes.batch, config.num_channels, sizes.image, sizes.image),
        "labels": torch.randint(0, config.num_labels, (sizes.batch,)),
    }


def _audio(sizes: Sizes, config: Any) -> dict[str, Tensor]:
    frames = 2 * config.max_source_positions
    features = torch.randn(sizes.batch, config.num_mel_bins, frames)
    return {"input_features": features, "labels": _tokens(sizes, config)}


_CLASSES = {"num_labels": 1000}
_NO_CACHE = {"use_cache": False}
FAMILIES: Mapping[str, Family] = {
    "resnet50": Family("ResNetForImageClassification", "ResNetConfig", _CLASSES, _images),
    "resnet152": Family("ResNetForImageClassification", "ResNetConfig", {**_CLASSES, "depths": [3, 8, 36, 3]}, _images),
    "mobilenet-v2": Family("MobileNetV2ForImageClassification", "MobileNetV2Config", _CLASSES, _images),
    "convnext-tiny": Family("ConvNextForImageClassification", "ConvNextConfig", _CLASSES, _images),
    "vit-base": Family("ViTForImageClassification", "ViTConfig", _CLASSES, _images),
    "swin-tiny": Family("SwinForImageClassification", "SwinConfig", _CLASSES, _images),
    "bert-base": Family("BertForMaskedLM", "BertConfig", {}, _masked),
    "bert-large": Family(
        "BertForMaskedLM",
        "BertConfig",
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
        _masked,
    ),
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", _NO_CACHE, _causal),
    "llama-small": Family(
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **_NO_CACHE,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
        _causal,
    ),
    "t5-small": Family("T5ForConditionalGeneration", "T5Config", {**_NO_CACHE, "decoder_start_token_id": 0}, _causal),
    "whisper-tiny": Family("WhisperForConditionalGeneration", "WhisperConfig", _NO_CACHE, _audio),
}
TINY = "tiny"


def names() -> list[str]:
    """Every model that a config can name."""
    return [*FAMILIES, *(name for name, known in lt.known_tasks().items() if known.example), TINY]


def check(name: str, settings: Settings) -> None:
    """Builds the model once, without memory where it is large.

    Raises:
        ConfigError: no such model, no such setting, or a value that makes no model.
    """
    build = _builder(name, settings)
    sizes = Sizes(2, 2, 224)
    try:
        if name in FAMILIES:
            with torch.device("meta"):
                build(sizes)
        else:
            build(sizes)
    except lt.LabtrailError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise lt.ConfigError([f"settings {dict(settings)} make no {name}: {reason}"]) from error


def example(name: str, settings: Settings, sizes: Sizes) -> lt.Example:
    """A model with random weights and a made-up batch.

    Args:
        name: one of ``names()``.
        settings: of the architecture's config, or of the task's.
        sizes: of the batch.

    Raises:
        ConfigError: as ``check``.
    """
    return _builder(name, settings)(sizes)


def _builder(name: str, settings: Settings) -> Callable[[Sizes], lt.Example]:
    """What makes the example; names and settings are right."""
    if name in FAMILIES:
        return _of_transformers(FAMILIES[name], settings)
    if name == TINY:
        if settings:
            raise lt.ConfigError([f"settings: {', '.join(settings)}: {TINY} has none"])
        return lambda sizes: tiny_example(sizes.batch)
    known = lt.known_tasks().get(name)
    if known is None or known.example is None:
        raise lt.ConfigError([f"model: {name!r} is unknown; valid: {', '.join(names())}"])
    try:
        config = lt.load_config(known.config, None, list(_dotted(settings)))
    except lt.ConfigError as error:
        raise lt.ConfigError([f"settings of {name}: {problem}" for problem in error.problems]) from None
    build = known.example
    return lambda sizes: build(config, sizes.batch)


def _dotted(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as overrides of a task's config."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text_of(value)


def _of_transformers(family: Family, settings: Settings) -> Callable[[Sizes], lt.Example]:
    import transformers

    config_class = getattr(transformers, family.config)
    known = config_class()
    unknown = [key for key in settings if callable(getattr(known, key, callable))]
    if unknown:
        raise lt.ConfigError([f"settings: {', '.join(unknown)}: no such value in transformers.{family.config}"])
    by_image = {"image_size"} if hasattr(known, "image_size") else set()

    def build(sizes: Sizes) -> lt.Example:
        config = config_class(**{**family.settings, **dict.fromkeys(by_image, sizes.image), **settings})
        longest = getattr(config, "max_position_embeddings", sizes.sequence)
        if sizes.sequence > longest:
            raise lt.ConfigError([f"sequence_length: {sizes.sequence} tokens, the model has positions for {longest}"])
        with _quiet():
            model = getattr(transformers, family.model)(config)
            return lt.Example(model.train(), family.batch(sizes, config), _own_loss)

    return build


def _own_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


@contextmanager
def _quiet() -> Generator[None]:
    """Without the advice that transformers gives on configs."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def example_on_paper(name: str, settings: Settings, sizes: Sizes, device: torch.device) -> lt.Example:
    """The same without memory: fake tensors on a device.

    Raises:
        ConfigError: as ``example``.
    """
    mode = compat.fake_mode()
    if name in FAMILIES:
        with torch.device("meta"):
            model, batch, loss = example(name, settings, sizes)
        return lt.Example(compat.fake_of_meta(model, mode, device), compat.fake_batch(batch, mode, device), loss)
    # These are small, and may look at numbers while they are built.
    model, batch, loss = example(name, settings, sizes)
    return lt.Example(*compat.fake_copy((model.to(device), compat.to_device(batch, device)), mode), loss)

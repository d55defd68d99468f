"""Recomputation on models that nobody here had tried: gradients are equal to the bit, or the plan is refused."""

import re

import pytest

from tests.cases.running import REMAT, fails_for, output_of

SILENT = [
    "plain",
    *(
        fails_for(REMAT, name)
        for name in (
            "p.register_hook (clipping, masks)",
            "mixup with np.random.beta in the loss",
            "stochastic depth with random.random()",
            "first batch (x, x), second (x, y)",
            "a layer replaced after the first step",
            "a counter in forward (wrong at the very first step)",
            "nn.RReLU (NaN)",
        )
    ),
]


@pytest.mark.parametrize("name", SILENT)
def test_gradients_are_never_wrong_in_silence(name: str) -> None:
    line = output_of("stepgraph/silent.py").line(f"{name} | ")
    assert line.endswith("| True") or "refused" in line


SLICES = [
    *(f"{kind} {memory}" for kind in ("Slices", "Zeros") for memory in ("0.9", "0.75", "0.6")),
    *(f"Custom {memory}" for memory in ("0.9", "0.75", "0.6")),
]


@pytest.mark.parametrize("name", SLICES)
def test_results_assembled_by_slices(name: str) -> None:
    line = output_of("stepgraph/slices.py").line(f"{name} ")
    assert line.split()[2] == "True" or re.match(r"\S+ \S+ \w*Error ", line)


@pytest.mark.parametrize("memory", ["1.0", fails_for(REMAT, "0.6")])
def test_rrelu(memory: str) -> None:
    assert "gradients equal: True" in output_of("stepgraph/rrelu_min.py").line(f"memory {memory} ")


@pytest.mark.xfail(reason=REMAT, strict=True)
def test_an_lstm_does_not_end_the_process() -> None:
    output = output_of("stepgraph/lstm_min.py")
    assert "eager fine" in output.lines
    assert output.status == 0 or any("Error" in line for line in output.lines)


@pytest.mark.parametrize(
    "name",
    [
        fails_for(REMAT, name)
        for name in (
            "llama, 8 heads, no mask (as llama-small in the table)",
            "llama, 8 heads, attention_mask of ones",
            "llama, GQA 2 of 8 heads, no mask",
            "llama, GQA 2 of 8 heads, attention_mask of ones",
        )
    ],
)
def test_a_traced_decoder_takes_the_eager_path(name: str) -> None:
    line = output_of("stepgraph/gqa.py").line(f"{name} | ")
    assert " differ from eager 0/" in line
    predicted, eager = (int(number.replace(",", "")) for number in re.findall(r"(?:peak|eager) ([\d,]+)", line)[-2:])
    assert predicted == eager


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        fails_for(REMAT, "20 x (Linear, GELU, Dropout)"),
        "nn.TransformerEncoder, 3 layers",
        "VGG-like: Conv, ReLU, Dropout",
    ],
)
def test_writing_in_place_makes_nothing_dearer(name: str) -> None:
    lines = [line for line in output_of("stepgraph/inplace_harm.py").lines if line.startswith(f"{name} | ")]
    without, with_it = (int(re.findall(r"recomputable (\d+)%", line)[0]) for line in lines)
    assert with_it >= without


@pytest.mark.slow
@pytest.mark.parametrize("script", [fails_for(REMAT, "plain.py"), fails_for(REMAT, "tricky.py")])
def test_models_steps_and_hooks(script: str) -> None:
    lines = output_of(f"stepgraph/{script}", timeout=2400).lines
    wrong = [line for line in lines if "WRONG" in line or "TRACEBACK" in line]
    assert len(lines) > 20
    assert wrong == []

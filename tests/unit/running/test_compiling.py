"""Compiling is an option that never stops a run."""

import logging

import pytest
import torch
from torch import nn

from labtrail.running.compiling import compile_in_place


def test_without_a_compiler_a_line_says_so_and_the_module_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    module = nn.Linear(3, 2)
    with caplog.at_level(logging.WARNING, logger="labtrail"):
        compile_in_place(module)
    assert "no C++ compiler (g++, clang++, c++, cl)" in caplog.text
    assert module._compiled_call_impl is None
    assert module(torch.ones(1, 3)).shape == (1, 2)


def test_a_named_compiler_that_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING, logger="labtrail"):
        compile_in_place(nn.Linear(3, 2))
    assert "no C++ compiler (no-such-compiler)" in caplog.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_module_computes_the_same_with_the_same_parameters() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    names = list(module.state_dict())
    x = torch.randn(5, 8)
    plain = module(x)
    compile_in_place(module)
    torch.testing.assert_close(module(x), plain)
    assert list(module.state_dict()) == names

"""The digest of a task's code changes with every edit that can change a number, and with few others."""

from pathlib import Path

import pytest

from labtrail.running.provenance.cache import RULE
from labtrail.running.provenance.code import CodeChange, CodeDigest, change_between, code_of
from labtrail.running.provenance.sources import ImportPaths
from tests.unit.provenance.package import EDITS, Address, Edit, code_in, write


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.what)
def test_the_digest_changes_when_a_number_can(tmp_path: Path, edit: Edit) -> None:
    write(tmp_path)
    before = code_in(tmp_path)
    write(tmp_path, edit)
    after = code_in(tmp_path)
    assert (after.digest != before.digest) == edit.counts
    assert any(change_between(before, after)) == edit.counts


def test_a_change_names_functions(tmp_path: Path) -> None:
    write(tmp_path)
    before = code_in(tmp_path)
    write(
        tmp_path,
        Edit("", "train", "def helper(n): return n + 1", "def helper(n): return aid(n)\ndef aid(n): return n", True),
    )
    change = change_between(before, code_in(tmp_path))
    assert change == CodeChange(("lab.p.train.helper",), ("lab.p.train.aid",), ())
    assert str(change) == "changed lab.p.train.helper; new lab.p.train.aid"
    many = CodeChange(tuple("abcdef"), (), ())
    assert str(many) == "changed a, b, c, d and 2 more"


def test_packages_and_what_cannot_be_followed_are_told(tmp_path: Path) -> None:
    write(tmp_path, Edit("", "deep", "return 1", "return eval('1') + getattr(far, name)", True))
    code = code_in(tmp_path)
    assert {"dataclasses", "importlib", "pydantic"} <= set(code.packages)
    assert code.blind[:2] == ("lab.p.deep: eval in line 1", "lab.p.deep: getattr of a computed name in line 1")


def test_readings_are_kept_and_a_damaged_cache_is_read_again(tmp_path: Path) -> None:
    write(tmp_path)
    cache = tmp_path / "code.json"
    fresh = code_in(tmp_path, cache)
    assert f'"rule": "{RULE}"' in cache.read_text()
    written = cache.stat().st_mtime_ns
    assert code_in(tmp_path, cache) == fresh
    assert cache.stat().st_mtime_ns == written
    cache.write_text(cache.read_text()[:100])
    assert code_in(tmp_path, cache) == fresh
    assert CodeDigest.from_json(fresh.to_json()) == fresh


def test_a_task_of_an_installed_package_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ImportPaths, "_installed", [*ImportPaths()._installed, tmp_path])
    assert "lab.p.train.helper" in code_of([Address("lab.p.train:train")], [], None).definitions
    # A library that a task uses is told, not followed.
    used = code_of([Address("tests.unit.provenance.test_code:uses_a_library")], [], None)
    assert "lab" in used.packages
    assert not any(name.startswith("lab.") for name in used.definitions)


def uses_a_library() -> object:
    from lab.p import train  # ty: ignore[import-not-found]

    return train.helper(1)

"""The page's data: what is packed is what was captured, and the page keeps to its size."""

import base64
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from projects.spoter.config import AnalysisConfig, ViewerConfig
from projects.spoter.interpret import viewer
from tests.unit.spoter.study import memory_study


def unpack(page: str) -> tuple[dict, bytes]:
    facts = re.search(r'id="data-facts">(.*?)</script>', page, re.S)
    binary = re.search(r'id="data-binary">(.*?)</script>', page, re.S)
    assert facts is not None
    assert binary is not None
    return json.loads(facts[1]), gzip.decompress(base64.b64decode(binary[1]))


def test_page_holds_every_weight_to_a_byte(tmp_path: Path) -> None:
    study = memory_study(tmp_path)
    facts, binary = unpack(viewer.write_viewer(study))
    assert facts["epochs"] == [1, 2]
    assert [fact["clip"] for fact in facts["clips"]] == study.few(20)
    at = 0
    for fact in facts["clips"]:
        length = fact["frames"]
        poses = np.frombuffer(binary, "<u2", length * 108, at).reshape(length, 54, 2)
        at += poses.nbytes
        frames = study.split.clips.clip(fact["clip"])
        missing = frames[..., 0] == 0
        assert (poses[missing] == 0).all()
        assert (poses[~missing] > 0).all()
        low = frames[~missing].min(axis=0)
        np.testing.assert_allclose((poses[~missing] - 1) / 65534 * fact["box"] + low, frames[~missing], atol=2e-5)
        for file in study.files.values():
            for name, weights in file.clip(fact["clip"]).items():
                largest = np.frombuffer(binary, "<f4", 9, at)
                at += largest.nbytes
                stored = np.frombuffer(binary, np.uint8, weights.size, at).reshape(weights.shape)
                at += stored.nbytes
                np.testing.assert_allclose(stored / 255 * largest[:, None, None], weights, atol=largest.max() / 500)
                assert name in facts["modules"]
    assert at == len(binary)


def test_long_clips_are_thinned_to_keep_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "")
    whole = viewer.write_viewer(memory_study(tmp_path))
    limit = (len(whole) - 500) * 1e-6
    config = AnalysisConfig(epochs=(1, 2), viewer=ViewerConfig.model_construct(clips=20, megabytes=limit))
    page = viewer.write_viewer(memory_study(tmp_path, config))
    assert len(page) <= limit * 1e6
    facts, _ = unpack(page)
    assert facts["thinned"]
    assert not unpack(whole)[0]["thinned"]
    longest = max(facts["clips"], key=lambda one: one["frames"])
    assert longest["queries"][0] == 0
    assert longest["queries"][-1] == longest["frames"] - 1


def test_page_is_self_contained_and_text_cannot_leave_its_place(tmp_path: Path) -> None:
    study = memory_study(tmp_path)
    study.names[0] = "</script><img src=x>"  # ty: ignore[invalid-assignment]
    page = viewer.write_viewer(study)
    assert "<img src=x>" not in page
    assert "default-src 'none'" in page
    shell = re.sub(r'<script type="application/[^>]*>.*?</script>', "", page, flags=re.S)
    assert not re.search(r"""(src|href)\s*=|https?://|import\s*\(|fetch\(""", shell)
    assert unpack(page)[0]["clips"][0]["sign"] == "</script><img src=x>"

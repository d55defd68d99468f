"""Head statistics against closed forms: uniform and one-hot attention, content attention, rollout by hand."""

import numpy as np
import pytest
from scipy.special import softmax

from labtrail.statistics import entropy, jensen_shannon
from projects.spoter.interpret.heads import ContentNull, HeadValues, head_table, head_values, long_enough, rollout


class Attention:
    """Weights that a test has written down."""

    def __init__(self, clips: list[dict[str, np.ndarray]]) -> None:
        self._clips = clips
        self.heads = len(clips[0]["enc_0"])
        self.modules = list(clips[0])
        self.frames = np.array([clip["enc_0"].shape[-1] for clip in clips])

    def clip(self, index: int) -> dict[str, np.ndarray]:
        return self._clips[index]


def random_weights(heads: int, frames: int, queries: int | None = None, seed: int = 0) -> np.ndarray:
    scores = np.random.default_rng(seed).normal(size=(heads, queries or frames, frames))
    return softmax(2 * scores, axis=-1)


def values_of(clip: dict[str, np.ndarray], features: np.ndarray) -> HeadValues:
    return head_values(Attention([clip]), [features], np.array([0]), seed=0)


def test_uniform_attention_is_the_unit_of_entropy_and_distance() -> None:
    features = np.random.default_rng(0).normal(size=(6, 4))
    found = values_of({"enc_0": np.full((3, 6, 6), 1 / 6), "dec_0": np.full((3, 1, 6), 1 / 6)}, features)
    np.testing.assert_allclose(found.entropy, 1.0)
    np.testing.assert_allclose(found.divergence, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.distance[0, 0], 1.0)
    np.testing.assert_allclose(found.distance_null[0, 0], 1.0)
    assert np.isnan(found.distance[0, 1]).all()


def test_attention_to_oneself_has_no_entropy_and_no_distance() -> None:
    found = values_of({"enc_0": np.stack([np.eye(5)] * 2)}, np.arange(5.0)[:, None])
    np.testing.assert_allclose(found.entropy, 0.0)
    np.testing.assert_allclose(found.distance, 0.0)


def test_divergence_is_the_mean_over_the_other_heads() -> None:
    weights = random_weights(3, 5)
    found = values_of({"enc_0": weights}, np.zeros((5, 1)))
    for head in range(3):
        others = [jensen_shannon(weights[head], weights[other]).mean() for other in range(3) if other != head]
        assert found.divergence[0, 0, head] == pytest.approx(np.mean(others))


def test_one_head_has_no_divergence() -> None:
    found = values_of({"enc_0": random_weights(1, 4)}, np.zeros((4, 1)))
    assert np.isnan(found.divergence).all()


def test_content_attention_equals_its_own_null() -> None:
    features = np.random.default_rng(0).normal(size=(9, 3)).cumsum(axis=0)
    squared = ((features[:, None] - features) ** 2).sum(-1)
    content = softmax(-0.7 * squared / np.median(squared[squared > 0]), axis=-1)
    null = ContentNull(features)
    expected = (content * null.gaps).sum(-1)
    np.testing.assert_allclose(null.distance_at(entropy(content)[None])[0], expected, rtol=2e-3)
    # Neighbours look alike here, so content alone brings attention closer than uniform.
    assert null.relative(expected[None])[0] < 0.9


def test_identical_frames_leave_the_null_uniform() -> None:
    null = ContentNull(np.ones((4, 2)))
    np.testing.assert_allclose(null.relative(null.distance_at(np.zeros((1, 4)))), 1.0)


def test_rollout_by_hand() -> None:
    encoder = {"enc_0": random_weights(2, 4, seed=1), "enc_1": random_weights(2, 4, seed=2)}
    decoder = {"dec_0": random_weights(2, 4, 1, seed=3), "dec_1": random_weights(2, 4, 1, seed=4)}
    first, second = ((weights.mean(0) + np.eye(4)) / 2 for weights in encoder.values())
    one, two = (weights.mean(0)[0] for weights in decoder.values())
    query = (one / 2 + two) / 2
    np.testing.assert_allclose(rollout(encoder | decoder), query / query.sum() @ second @ first)
    assert rollout(encoder | decoder).sum() == pytest.approx(1.0)


def test_rollout_of_uniform_attention_is_uniform() -> None:
    weights = {"enc_0": np.full((2, 5, 5), 0.2), "dec_0": np.full((2, 1, 5), 0.2)}
    np.testing.assert_allclose(rollout(weights), 0.2)


def test_clips_of_one_frame_are_left_out() -> None:
    assert long_enough(np.array([3, 1, 2])).tolist() == [0, 2]


def test_table_has_a_null_beside_every_value() -> None:
    clips = [{"enc_0": random_weights(3, 6, seed=i), "dec_0": random_weights(3, 6, 1, seed=9 + i)} for i in range(5)]
    features = [np.random.default_rng(i).normal(size=(6, 2)) for i in range(5)]
    found = head_values(Attention(clips), features, np.arange(5), seed=0)
    table = head_table(10, ["enc_0", "dec_0"], found, found, 200, 0)
    assert len(table) == 2 * 6 + 3
    assert not table.isna().to_numpy().any()
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    np.testing.assert_allclose(table["difference"], table["value"] - table["null"], atol=1e-12)
    # A network that is its own null differs from it nowhere.
    assert table.loc[table["statistic"] == "entropy", "difference"].eq(0).all()

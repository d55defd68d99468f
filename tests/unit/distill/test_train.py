"""Training: what resumes to the bit, what a step minimises, and what is frozen."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file
from torch.nn import functional as F

from labtrail.errors import ConfigError, MetricError
from projects.distill.config import METHOD_NAMES, DistillConfig
from projects.distill.evaluate import FEATURES
from projects.distill.learner import Learner, SkippedSteps, balance, gradient_comparison
from projects.distill.methods import METHODS, Factors
from projects.distill.model import ResNet, fused
from projects.distill.train import PARAPHRASER, batches, learning_rate_at
from tests.unit.distill.small import run, run_together, small_config, small_images, small_teacher, use_small


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_four_epochs_are_two_and_two_to_the_bit(
    method: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    teacher = "" if method in ("none", "control") else "0" * 32
    config = small_config(method=method, teacher=teacher, compute={"precision": precision})
    whole = run(config, tmp_path / "whole")
    begun = run(config, tmp_path / "parts", records=2)
    ended = run(config, tmp_path / "parts")
    assert [dict(one.metrics) for one in [*begun, *ended]] == [dict(one.metrics) for one in whole]
    one, other = (load_file(tmp_path / name / "last/model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_students_side_by_side_are_those_of_separate_runs_also_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    configs = [
        small_config(method=method, alpha=alpha, teacher=teacher, compute={"precision": "bf16"})
        for method, alpha, teacher in (
            ("logit", 0.3, "0" * 32),
            ("fitnets", 0.7, "0" * 32),
            ("control", 0.5, ""),
            ("factor", 0.5, "0" * 32),
        )
    ]
    alone = [run(config, tmp_path / f"alone{number}") for number, config in enumerate(configs)]
    # Five records: in the second epoch, the first student is one ahead of the others when the process dies.
    begun = run_together(configs, tmp_path / "together", records=5)
    ended = run_together(configs, tmp_path / "together")
    for number, whole in enumerate(alone):
        own = [dict(record.metrics) for place, record in [*begun, *ended] if place == number]
        assert own == [dict(record.metrics) for record in whole]
        one, other = (
            load_file(tmp_path / name / "last/model.safetensors") for name in (f"alone{number}", f"together/{number}")
        )
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["none", "control", "fitnets", "factor", "dkd"])
def test_in_less_memory_it_is_the_same_training(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, tmp_path)
    teacher = "" if method in ("none", "control") else "0" * 32
    train = {"epochs": 1, "batch_size": 32, "learning_rate": 0.01}
    found = []
    for name, memory in (("plain", None), ("lean", 0.95)):
        config = small_config(method=method, teacher=teacher, train=train, remat={"memory": memory})
        found.append([dict(record.metrics) for record in run(config, tmp_path / name)])
    # How both terms pull is only compared where everything is kept.
    kept = [
        {key: value for key, value in record.items() if not key.startswith("train/gradient")} for record in found[0]
    ]
    assert found[1] == kept
    one, other = (load_file(tmp_path / name / "last/model.safetensors") for name in ("plain", "lean"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_everything_that_a_method_trains_is_in_optimizer_and_checkpoint(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    run(small_config(method=method), tmp_path / "run", records=1)
    first = load_file(tmp_path / "run/last/model.safetensors")
    run(small_config(method=method), tmp_path / "run", records=1)
    second = load_file(tmp_path / "run/last/model.safetensors")
    learner = Learner(small_config(method=method), 1, 10, small_teacher().widths)
    assert set(first) == set(learner.state_dict())
    trained = {name for name, one in learner.named_parameters() if one.requires_grad}
    still = {name for name in trained if torch.equal(first[name], second[name])}
    assert not still
    if method == "factor":
        frozen = [name for name in first if name.startswith("matcher.paraphrase")]
        assert len(frozen) == 12
        assert all(torch.equal(first[name], second[name]) for name in frozen)


def test_the_paraphraser_is_trained_once_kept_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small(monkeypatch, tmp_path)
    config = small_config(method="factor")
    (record,) = run(config, tmp_path / "a", records=1)
    (kept,) = (tmp_path / "data/cache/distill").glob("*.safetensors")
    stored = load(record.files[PARAPHRASER])
    assert all(torch.equal(one, stored[name]) for name, one in load_file(kept).items())
    before = kept.stat().st_mtime_ns
    run(small_config(method="factor", alpha=0.9), tmp_path / "b", records=1)
    assert kept.stat().st_mtime_ns == before
    kept.unlink()
    run(small_config(method="factor", alpha=0.1), tmp_path / "c", records=1)
    (again,) = (tmp_path / "data/cache/distill").glob("*.safetensors")
    assert again.name == kept.name
    assert all(torch.equal(one, stored[name]) for name, one in load_file(again).items())


def terms(config: DistillConfig) -> tuple[Learner, torch.Tensor, torch.Tensor | None]:
    torch.manual_seed(0)
    teacher = small_teacher()
    learner = Learner(config, 1, 10, teacher.widths if config.teacher else ())
    x, labels = torch.randn(8, 1, 16, 16), torch.arange(8)
    ce, extra = learner.terms(learner.student(x), teacher.model(x) if config.teacher else None, labels)
    return learner, ce, extra


def test_alpha_weighs_labels_against_the_teacher() -> None:
    learner, ce, extra = terms(small_config(method="attention", alpha=0.3))
    assert extra is not None
    assert float(learner.weight) == METHODS["attention"].weight
    torch.testing.assert_close(learner.loss(ce, extra), 0.7 * ce + 0.3 * extra)
    control, ce, nothing = terms(small_config(method="control", alpha=0.3, teacher=""))
    assert nothing is None
    torch.testing.assert_close(control.loss(ce, None), 0.7 * ce)
    given, _, _ = terms(small_config(method="attention", loss={"weight": 2.5}))
    assert float(given.weight) == 2.5


def test_only_a_baseline_smooths_its_labels() -> None:
    for method, smoothed in (("none", 0.1), ("control", 0.0), ("logit", 0.0)):
        teacher = "0" * 32 if method == "logit" else ""
        learner, _, _ = terms(small_config(method=method, alpha=0.0, teacher=teacher))
        assert learner.smoothing == smoothed
    x, labels = torch.randn(8, 1, 16, 16), torch.arange(8)
    learner, _, _ = terms(small_config(method="none", alpha=0.0, teacher=""))
    output = learner.student(x)
    torch.testing.assert_close(
        learner.terms(output, None, labels)[0], F.cross_entropy(output.logits, labels, label_smoothing=0.1)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_balanced_extra_term_pulls_as_hard_as_cross_entropy(method: str) -> None:
    config = small_config(method=method)
    learner, _, _ = terms(config)
    teacher = small_teacher()
    x, labels = torch.randn(8, 1, 16, 16), torch.arange(8)

    def again(_number: int) -> tuple[torch.Tensor, torch.Tensor]:
        one, other = learner.terms(learner.student(x), teacher.model(x), labels)
        assert other is not None
        return one, other

    balance(learner, again, 1)
    ratio, cosine = gradient_comparison(learner.student, *again(0))
    assert float(ratio) == pytest.approx(1.0, rel=1e-4)
    assert -1 <= float(cosine) <= 1


def test_balance_is_calibrated_before_the_first_step_and_then_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    config = small_config(method="nst", loss={"balance": "gradient", "balance_batches": 2})
    records = run(config, tmp_path / "run")
    weights = {record.metrics["train/extra_weight"] for record in records[:-1]}
    assert len(weights) == 1
    assert weights != {METHODS["nst"].weight}
    assert records[0].metrics["train/gradient_ratio"] == pytest.approx(1.0, rel=0.5)


def test_skipped_steps_in_a_row_end_the_run_and_name_the_method() -> None:
    counter = SkippedSteps("rkd", 3)
    for skipped in (True, True, False, True, True):
        counter.note(skipped)
    with pytest.raises(MetricError, match="method rkd: the loss scaler skipped 3 steps in a row"):
        counter.note(True)


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    config = small_config(method="fitnets", train={"epochs": 2, "batch_size": 32, "learning_rate": 1e30})
    with pytest.raises(MetricError, match=r"method fitnets: the loss of epoch 0 is nan; lower train\.learning_rate"):
        run(config, tmp_path / "run")


def test_data_order_depends_on_seed_and_epoch_only() -> None:
    from projects.distill.data import DeviceImages

    images = small_images()
    resident = DeviceImages(images.train, images, torch.device("cpu"))
    one = list(batches(small_config(method="logit", alpha=0.1), resident, 3))
    two = list(batches(small_config(method="vid", alpha=0.9), resident, 3))
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(one, two, strict=True))
    for other in (batches(small_config(), resident, 4), batches(small_config(seed=1), resident, 3)):
        assert not all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))
    assert sorted(torch.cat([index for index, _ in one]).tolist()) == list(range(len(resident)))


def test_the_rate_falls_by_cosine_or_in_steps() -> None:
    cosine = small_config(train={"epochs": 10, "learning_rate": 0.2}).train
    assert [learning_rate_at(cosine, epoch) for epoch in (0, 5)] == pytest.approx([0.2, 0.1])
    steps = small_config(train={"epochs": 10, "learning_rate": 0.2, "schedule": "steps", "milestones": "3,6"}).train
    assert [learning_rate_at(steps, epoch) for epoch in (2, 3, 6)] == pytest.approx([0.2, 0.02, 0.002])


def test_the_last_record_tells_of_the_best_weights_and_keeps_their_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small(monkeypatch, tmp_path)
    last = run(small_config(), tmp_path / "run")[-1]
    wanted = {"accuracy", "accuracy_last", "nll", "brier", "ece", "teacher_agreement", "teacher_accuracy"}
    assert {f"test/{name}" for name in wanted} == set(last.metrics)
    found = load(last.files[FEATURES])
    assert {name: tuple(one.shape) for name, one in found.items()} == {
        "logits": (96, 10),
        "labels": (96,),
        "stage_1": (96, 4),
        "stage_2": (96, 8),
        "stage_3": (96, 16),
    }
    right = (found["logits"].argmax(1) == found["labels"]).float().mean()
    assert float(right) == pytest.approx(last.metrics["test/accuracy"])


def test_a_fused_teacher_says_the_same() -> None:
    torch.manual_seed(0)
    model = ResNet(small_config(model={"name": "resnet14"}).model, 3, 10)
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32))
    model.eval()
    x = torch.randn(4, 3, 32, 32)
    plain = model(x)
    joined = fused(model)(x)
    assert not [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for one, other in zip((*plain.stages, plain.logits), (*joined.stages, joined.logits), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "parameters"), [("resnet56", 861_620), ("resnet112", 1_736_564)])
def test_networks_have_the_sizes_that_the_notes_of_the_users_give(name: str, parameters: int) -> None:
    model = ResNet(small_config(model={"name": name}).model, 3, 100)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_factors_are_a_share_of_the_teachers_channels() -> None:
    learner = Learner(small_config(method="factor", loss={"factor_rate": 0.25}), 1, 10, (8, 16, 32))
    assert isinstance(learner.matcher, Factors)
    assert learner.matcher.translate.conv2.out_channels == 8


def test_dkd_of_two_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="method: dkd needs at least 3 classes, found 2; use logit"):
        Learner(small_config(method="dkd"), 1, 2, (8, 16, 32))


def test_a_term_that_does_not_pull_cannot_be_balanced() -> None:
    learner, ce, _ = terms(small_config(method="logit"))
    nothing = 0 * learner.student(torch.randn(4, 1, 16, 16)).logits.sum()
    with pytest.raises(MetricError, match="no weight balances them"):
        balance(learner, lambda _number: (ce, nothing), 1)

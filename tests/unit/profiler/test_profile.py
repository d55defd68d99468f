"""Times, aggregation and mu-TWO's figures, by hand where a hand can follow."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from labtrail.errors import ConfigError
from labtrail.stepgraph.ir import Node, Phase, Role, StepGraph, Storage
from labtrail.stepgraph.liveness import Activation, activations, breakdown, held_with_swapping, liveness
from labtrail.stepgraph.program import Program
from labtrail.stepgraph.recompute import recomputations
from labtrail.stepgraph.trace import trace
from labtrail.stepgraph.workspace import workspaces
from projects.profiler import charts
from projects.profiler.clock import CpuClock, Stopwatch
from projects.profiler.families import Sizes, check, example
from projects.profiler.fitting import MemoryLimitError, out_of_memory_explained, to_swap
from projects.profiler.profile import GraphProfiler, Profile
from projects.profiler.report import write_report
from projects.profiler.swap import Bandwidth, measure_bandwidth, swappable
from projects.profiler.tables import duration, size, summary
from tests.unit.profiler.steps import miniature, step_of

F, B, O = Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER  # noqa: E741
BANDWIDTH = Bandwidth(100.0, 50.0)


Row = tuple[str, Phase, tuple[int, ...], tuple[int, ...]]
Kept = tuple[int, int, Role]


def graph_of(
    rows: Sequence[Row],
    storages: Sequence[Kept],
    outputs: tuple[int, ...],
    writes: dict[int, tuple[int, ...]] | None = None,
    random: tuple[int, ...] = (),
) -> StepGraph:
    """Rows are (operator, phase, inputs, storages of the value); storages are (bytes, creator, role)."""
    nodes = tuple(
        Node(
            index,
            f"n{index}",
            op,
            phase,
            storages[own[0]][2] if own else Role.OTHER,
            inputs,
            own,
            (writes or {}).get(index, ()),
            index in random,
            False,
            "",
            "",
        )
        for index, (op, phase, inputs, own) in enumerate(rows)
    )
    return StepGraph(nodes, tuple(Storage(index, *one) for index, one in enumerate(storages)), outputs)


# w and x; h = w x; r = relu(h) kept; t = 2 r not kept; a = t + 1 kept; loss; backward reads a, then r; update of w.
BY_HAND = graph_of(
    [
        ("placeholder", F, (), (0,)),  # 0 w
        ("placeholder", F, (), (1,)),  # 1 x
        ("mul", F, (0, 1), (2,)),  # 2 h
        ("relu", F, (2,), (3,)),  # 3 r
        ("double", F, (3,), (4,)),  # 4 t
        ("add", F, (4,), (5,)),  # 5 a
        ("sum", F, (5,), (6,)),  # 6 loss
        ("sum_backward", B, (5,), (7,)),  # 7
        ("view", B, (3,), (3,)),  # 8 of r
        ("relu_backward", B, (7, 8), (8,)),  # 9 gradient of w
        ("update", O, (0, 9), ()),  # 10
    ],
    [
        (40, 0, Role.PARAMETER),
        (8, 1, Role.INPUT),
        (16, 2, Role.OTHER),
        (16, 3, Role.ACTIVATION),
        (32, 4, Role.OTHER),
        (24, 5, Role.ACTIVATION),
        (4, 6, Role.OTHER),
        (24, 7, Role.OTHER),
        (40, 9, Role.GRADIENT),
    ],
    outputs=(6, 9),
)


def test_liveness_by_hand() -> None:
    life = liveness(BY_HAND)
    # w and x always, the loss from 6, the gradient from 9; every other value until its last use.
    assert life.held().tolist() == [
        48,
        48,
        64,
        48 + 16 + 16,
        48 + 16 + 32,
        48 + 16 + 32 + 24,
        48 + 16 + 24 + 4,
        52 + 16 + 24 + 24,
        52 + 16 + 24,
        52 + 16 + 24 + 40,
        52 + 40,
    ]
    assert (life.peak, life.peak_node) == (132, 9)
    parts = breakdown(BY_HAND, life)
    assert {name: int(held[9]) for name, held in parts.items()} == {
        "parameters": 40,
        "optimizer_state": 0,
        "gradients": 40,
        "activations": 16,
        "temporaries": 8 + 4 + 24,
    }


def test_activations_by_hand() -> None:
    assert activations(BY_HAND) == [
        Activation(3, "n3", 16, 3, 4, 8, 9),
        Activation(5, "n5", 24, 5, 6, 7, 7),
    ]


def test_swapping_by_hand() -> None:
    chosen = swappable(BY_HAND, activations(BY_HAND))
    # The second is needed again at once.
    assert [one.name for one in chosen] == ["n3"]
    held = held_with_swapping(liveness(BY_HAND), chosen)
    assert (liveness(BY_HAND).held() - held).tolist() == [0, 0, 0, 0, 0, 16, 16, 16, 0, 0, 0]


def test_recomputation_by_hand() -> None:
    first, second = recomputations(BY_HAND, activations(BY_HAND))
    # r needs h, which is not kept; both lie in memory together. a starts from r, which is kept.
    assert first.nodes == (2, 3)
    assert first.memory_bytes == 16 + 16
    assert second.nodes == (4, 5)
    assert second.memory_bytes == 32 + 24
    times = np.arange(11.0)
    assert (first.time_s(times), second.time_s(times)) == (5.0, 9.0)
    assert not first.random


def test_recomputation_repeats_changes_in_place_and_tells_of_randomness() -> None:
    graph = graph_of(
        [
            ("placeholder", F, (), (0,)),
            ("empty_like", F, (0,), (1,)),
            ("bernoulli_", F, (1,), (1,)),
            ("mul", F, (0, 2), (2,)),
            ("mul_backward", B, (3, 2), (3,)),
        ],
        [(8, 0, Role.INPUT), (8, 1, Role.ACTIVATION), (8, 3, Role.ACTIVATION), (8, 4, Role.GRADIENT)],
        outputs=(4,),
        writes={2: (1,)},
        random=(2,),
    )
    mask, product = recomputations(graph, activations(graph))
    assert mask.nodes == (1, 2)
    assert mask.random
    assert mask.memory_bytes == 8
    assert product.nodes == (3,)
    assert not product.random


def test_recomputation_does_not_start_from_what_was_overwritten() -> None:
    # y is read by z before it is changed in place: z cannot be had from y as it is in the end.
    graph = graph_of(
        [
            ("placeholder", F, (), (0,)),
            ("addmm", F, (0,), (1,)),
            ("tanh", F, (1,), (2,)),
            ("relu_", F, (1,), (1,)),
            ("backward", B, (2, 3), (3,)),
        ],
        [(8, 0, Role.INPUT), (8, 1, Role.ACTIVATION), (8, 2, Role.ACTIVATION), (8, 4, Role.GRADIENT)],
        outputs=(4,),
        writes={3: (1,)},
    )
    overwritten, product = recomputations(graph, activations(graph))
    assert overwritten.nodes == (1, 3)
    assert product.nodes == (1, 2)


def test_an_operator_that_refuses_zeros_spoils_nothing() -> None:
    def loss(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = model(x).softmax(1)
        return y.gather(1, torch.multinomial(y.detach(), 1)).mean()

    step = step_of(torch.nn.Linear(8, 8), torch.randn(4, 8), loss)
    traced = trace(step)
    assert any("multinomial" in node.op for node in traced.graph.nodes)
    assert len(workspaces(traced)) == len(traced.graph.nodes)


class Ticks:
    """A clock that says what it is told."""

    def __init__(self, moments: list[float]) -> None:
        self._left = list(moments)

    def now(self) -> float:
        return self._left.pop(0)

    def seconds(self, moments: Sequence[float]) -> np.ndarray:
        return np.array(moments) - moments[0]


def test_a_stopwatch_gives_every_moment_to_one_node() -> None:
    step = miniature("tiny")
    step.take()
    traced = trace(step)
    program = Program(traced)
    count = program.nodes - program.first
    watch = Stopwatch(Ticks([float(one**2) for one in range(count + 1)]))
    program.run(traced.inputs(step), watch.watcher)
    assert watch.times().tolist() == [2.0 * one + 1 for one in range(count)]
    assert watch.times().sum() == count**2


def test_the_cpu_clock_counts_seconds() -> None:
    assert CpuClock().seconds([5_000_000_000, 5_500_000_000]).tolist() == [0.0, 0.5]


def profiled(name: str = "tiny", iterations: int = 2) -> tuple[GraphProfiler, Profile]:
    step = miniature(name)
    step.take()
    profiler = GraphProfiler(trace(step), step)
    profiler.run(iterations)
    profiler.measure_memory()
    return profiler, profiler.aggregate(BANDWIDTH)


def test_medians_over_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    step = miniature("tiny")
    step.take()
    traced = trace(step)
    profiler = GraphProfiler(traced, step)
    count = len(traced.graph.nodes) - traced.graph.first_call
    given = iter([np.full(count, 99.0), np.full(count, 1.0), np.full(count, 5.0), np.full(count, 2.0)])
    monkeypatch.setattr(profiler, "_timed_once", lambda: next(given))
    profiler.run(3, warmup=1)
    profile = profiler.aggregate(BANDWIDTH)
    assert set(profile.run_times[traced.graph.first_call :]) == {2.0}
    assert profile.graph_time_s == 2.0 * count
    profiler.reset()
    with pytest.raises(ValueError, match="call run"):
        profiler.aggregate(BANDWIDTH)


def test_node_and_activation_stats() -> None:
    profiler, profile = profiled()
    nodes, kept = profile.node_stats(), profile.activation_stats()
    first = profile.traced.graph.first_call
    assert list(nodes.columns[:7]) == ["id", "name", "op", "phase", "role", "run_time_s", "peak_memory_bytes"]
    assert nodes["id"].tolist() == list(range(len(profile.traced.graph.nodes)))
    assert (nodes["run_time_s"][:first] == 0).all()
    assert (nodes["run_time_s"][first:] > 0).all()
    assert nodes["peak_memory_bytes"].max() == profiler.measured_peak() == profile.peak_bytes
    assert set(kept.columns) >= {
        "name",
        "phase",
        "memory_bytes",
        "inactive_time_s",
        "swap_time_s",
        "recomp_time_s",
        "recomp_memory_bytes",
        "recompute_ratio",
        "created_rank",
        "last_forward_rank",
        "first_backward_rank",
        "last_backward_rank",
    }
    row = kept.iloc[0]
    between = nodes["run_time_s"][row["last_forward_rank"] + 1 : row["first_backward_rank"]].sum()
    assert row["inactive_time_s"] == pytest.approx(between)
    assert row["swap_time_s"] == pytest.approx(row["memory_bytes"] / 100 + row["memory_bytes"] / 50)
    assert row["recompute_ratio"] == pytest.approx(row["memory_bytes"] / row["recomp_time_s"])
    ranks = kept[["created_rank", "last_forward_rank", "first_backward_rank", "last_backward_rank"]].to_numpy()
    assert (np.diff(ranks, axis=1) >= 0).all()
    assert kept.set_index("name")["random"]["empty_like"]


def test_a_step_that_does_not_fit_is_profiled_by_swapping() -> None:
    step = miniature("tiny")
    traced = trace(step)
    need = liveness(traced.graph).peak
    swapped = to_swap(traced, "tiny", need - 1, free=1 << 40)
    assert swapped == swappable(traced.graph, activations(traced.graph))
    step.take()
    profiler = GraphProfiler(traced, step, swapped)
    profiler.run(1)
    profiler.measure_memory()
    profile = profiler.aggregate(BANDWIDTH)
    assert profile.peaks is None
    assert profile.held.max() < need
    assert np.array_equal(np.sum(list(profile.parts.values()), axis=0), profile.predicted)
    assert profiler.measured_peak() == pytest.approx(profile.peak_bytes, rel=0.001)


def test_what_does_not_fit_at_all_is_said_before_it_is_tried() -> None:
    traced = trace(miniature("tiny"))
    assert to_swap(traced, "tiny", None, free=1 << 40) == []
    with pytest.raises(MemoryLimitError, match=r"tiny: out of memory: .* 1.0 KiB are free; lower batch_sizes"):
        to_swap(traced, "tiny", None, free=1024)
    with pytest.raises(MemoryLimitError, match="with all waiting activations swapped"):
        to_swap(traced, "tiny", 1024.0, free=1 << 40)


def test_a_failed_allocation_is_explained() -> None:
    with (
        pytest.raises(MemoryLimitError, match=r"big: out of memory .*lower batch_sizes"),
        out_of_memory_explained("big"),
    ):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), out_of_memory_explained("big"):
        torch.zeros(2) @ torch.zeros(3, 3)


def test_bandwidth() -> None:
    assert BANDWIDTH.seconds(100) == 3.0
    found = measure_bandwidth(torch.device("cpu"))
    assert 1e8 < min(found) <= max(found) < 1e13


def test_units() -> None:
    assert [size(one) for one in (0, 1023, 1536, 3 << 20, 5 << 30, 2 << 40, 1 << 60)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "3.0 MiB",
        "5.0 GiB",
        "2.0 TiB",
        "1048576.0 TiB",
    ]
    assert [duration(one) for one in (2.5, 0.0015, 2e-6)] == ["2.50 s", "1.50 ms", "2.0 us"]


def test_summary_and_page_tell_the_peak() -> None:
    _, profile = profiled()
    text = summary(profile)
    assert f"predicted peak {size(profile.peak_bytes)} at node {profile.peak_node}" in text
    assert "workspace" in text.splitlines()[1]
    page = write_report("a <step>", "about it", None, {4: profile}, ["one line"])
    assert "a \\u003cstep>" in page
    assert "unpack(" in page
    assert "@" not in page.split("<style>")[0]


def test_figures_show_every_part() -> None:
    _, profile = profiled()
    nodes, kept = profile.node_stats(), profile.activation_stats()
    graph = profile.traced.graph
    timeline = charts.memory_timeline(profile.parts, graph.phase_starts(), 1e6, graph.first_call, "title")
    axis = timeline.axes[0]
    legend = axis.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["parameters", "optimizer state", "gradients", "activations", "temporaries", "workspace"]
    assert {text.get_text().strip() for text in axis.texts} >= {"forward", "backward", "optimizer", "memory limit"}
    for figure in (
        charts.node_runtime(nodes, "t"),
        charts.node_peak(nodes, "t"),
        charts.activation_sizes(kept, "t"),
        charts.inactive_time(kept, "t"),
    ):
        assert isinstance(figure, Figure)
        assert len(figure.axes) == 2
    rows = pd.DataFrame(
        {"label": ["b4", "b8"], "parameters": [1e6, 1e6], "activations": [1e6, 2e6], "measured": [2e6, 3e6]}
    )
    bars = charts.memory_by_batch(rows, 4e6, "t").axes[0]
    assert len(bars.patches) == 4


@pytest.mark.parametrize(
    ("model", "settings", "says"),
    [
        ("resnet51", {}, "'resnet51' is unknown; valid: .*resnet50.*spoter.*tiny"),
        ("bert-base", {"layers": 2}, "layers: no such value in transformers.BertConfig"),
        ("spoter", {"model": {"layer": 2}}, "settings of spoter: --model.layer: unknown key .did you mean 'layers'"),
        ("tiny", {"width": 2}, "tiny has none"),
        ("bert-base", {"num_attention_heads": 5}, "make no bert-base: .*multiple of the number of attention heads"),
        ("bert-base", {"num_hidden_layers": "two"}, "make no bert-base: .*expected int, got str"),
        ("bert-base", {"to_dict": 1}, "to_dict: no such value"),
        ("campaign", {}, "is unknown"),
    ],
)
def test_names_and_settings_are_checked(model: str, settings: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(model, settings)


def test_a_distilled_student_needs_a_teacher() -> None:
    with pytest.raises(ConfigError, match="logit needs a teacher"):
        example("distill", {"method": "logit"}, Sizes(4, 8, 8))


def test_a_sequence_longer_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="600 tokens, the model has positions for 512"):
        example("bert-base", {}, Sizes(1, 600, 224))

"""Torch's own answer: what its activation_memory_budget keeps and computes again, judged as our plans are.

What it touches of torch's partitioner is unstable; tests/unit/profiler/test_partitioner.py has the canaries.
"""

import copy
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._functorch import config as functorch
from torch._functorch._aot_autograd.subclass_utils import compute_inner_mutated_inp_indices_from_subclass_meta
from torch._functorch.aot_autograd import aot_export_joint_with_descriptors
from torch._functorch.partitioners import default_partition, min_cut_rematerialization_partition
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

import labtrail as lt
from labtrail.stepgraph.assemble import Assembled, assemble
from labtrail.stepgraph.compat import Calls, draws, mode_of
from labtrail.stepgraph.ir import Role
from labtrail.stepgraph.liveness import liveness
from labtrail.stepgraph.roofline import Machine, seconds_of

SOLVERS = ("dp", "greedy", "ilp")


class Setting(NamedTuple):
    """What torch is asked.

    Attributes:
        budget: activation_memory_budget.
        solver: activation_memory_budget_solver, by name or one of one's own; ``default`` for the partition without any
            recomputation.
        decomposed: whether operators are first taken apart as the Inductor backend does.
    """

    budget: float
    solver: Any
    decomposed: bool


class Judged(NamedTuple):
    """What comes of a setting.

    Attributes:
        setting: what was asked.
        peak_bytes: of forward and backward pass, storages alone.
        time_s: of all their operators, by a roofline.
        draws_again: whether random numbers are drawn a second time, which makes the gradients wrong.
    """

    setting: Setting
    peak_bytes: int
    time_s: float
    draws_again: bool


class _WithLoss(nn.Module):
    def __init__(self, example: lt.Example) -> None:
        super().__init__()
        self.model, self._loss = example.model, example.loss

    def forward(self, batch: Any) -> Tensor:
        return self._loss(self.model, batch)


class Joint:
    """Forward and backward pass as torch's compilers see them, in one graph."""

    def __init__(self, example: lt.Example, *, decomposed: bool) -> None:
        """
        Args:
            example: on fake tensors; it is used up.
            decomposed: see ``Setting``.
        """
        self._decomposed = decomposed
        with ExitStack() as stack, _masks_unread(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = aot_export_joint_with_descriptors(
                stack, _WithLoss(example), (example.batch,), decompositions=_inductors() if decomposed else None
            )
        state, capture = traced._aot_state, traced._aot_graph_capture
        assert capture is not None
        meta = state.fw_metadata
        inner = meta if capture.maybe_subclass_meta is None else capture.maybe_subclass_meta.fw_metadata
        self._module = traced.graph_module
        self._inputs = capture.updated_flat_args
        self._outputs = (
            len(compute_inner_mutated_inp_indices_from_subclass_meta(meta, inner))
            + inner.num_outputs
            + inner.num_intermediate_bases
            + inner.num_outputs_rng_offset
            + len(meta.tokens)
        )
        # The compiler knows parameters and buffers as such; the export does not say so.
        self._static = list(range(len(traced.params_spec) + len(traced.buffers_spec)))

    def settings(self, budgets: Sequence[float], solvers: Sequence[str] = SOLVERS) -> list[Setting]:
        """All that can be asked of this graph; at 0 and 1 no solver is needed."""
        settings = [Setting(1.0, "default", self._decomposed)]
        for budget in budgets:
            chosen = solvers if 0 < budget < 1 else solvers[:1]
            settings += [Setting(budget, solver, self._decomposed) for solver in chosen]
        return settings

    def evaluate(self, setting: Setting, machine: Machine) -> Judged:
        """Peak and time of torch's partition, every operator by itself."""
        forward, backward = self._partitioned(setting)
        assembled = _assembled(_together(forward, backward, self._outputs), forward)
        first = {node.name for node in forward.graph.nodes if node.op == "call_function"}
        repeated = [node for node in backward.graph.nodes if node.name in first and node.users]
        again = any(draws(node.target, node.args, node.kwargs) for node in repeated)
        times = seconds_of(assembled.graph, assembled.calls, assembled.fakes, machine)
        return Judged(setting, liveness(assembled.graph).peak, float(np.sum(times)), again)

    def saved(self, setting: Setting) -> int:
        """Values that are kept between the passes, parameters and inputs not counted."""
        returned: Any = self._partitioned(setting)[0].graph.output_node().args[0]
        return sum(saved.op != "placeholder" for saved in returned[self._outputs :])

    def _partitioned(self, setting: Setting) -> tuple[fx.GraphModule, fx.GraphModule]:
        # Its constants are shared: some cannot be copied.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = fx.GraphModule(self._module, copy.deepcopy(self._module.graph))
        partition: Callable[..., Any] = min_cut_rematerialization_partition
        if setting.solver == "default":
            partition = default_partition
        settings: dict[str, Any] = {"activation_memory_budget": setting.budget}
        if setting.solver != "default":
            settings["activation_memory_budget_solver"] = setting.solver
        with functorch.patch(settings):
            return partition(
                module, self._inputs, num_fwd_outputs=self._outputs, static_lifetime_input_indices=self._static
            )


@contextmanager
def _masks_unread() -> Generator[None]:
    """Attention masks are taken as they are: transformers would look into them, and does not know these tensors."""
    from transformers.utils import import_utils

    owner: Any = import_utils
    before = owner.is_fake_tensor
    owner.is_fake_tensor = lambda value: before(value) or isinstance(value, FunctionalTensor)
    try:
        yield
    finally:
        owner.is_fake_tensor = before


def _inductors() -> dict[Any, Callable[..., Any]]:
    """The decompositions of the Inductor backend; one of them looks for its lowerings."""
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def _changes_something(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _together(forward: fx.GraphModule, backward: fx.GraphModule, outputs: int) -> fx.Graph:
    """One graph of both: what the first saves the second takes, the gradient of the loss is one."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    returned: Any = forward.graph.output_node().args[0]
    _copy(forward.graph, graph, made)
    by_name = {saved.name: made[saved] for saved in returned[outputs:] if isinstance(saved, fx.Node)}
    loss = made[returned[outputs - 1]]
    for node in backward.graph.nodes:
        if node.op == "placeholder":
            known = by_name.get(node.name)
            made[node] = graph.call_function(torch.ops.aten.ones_like.default, (loss,)) if known is None else known
    _copy(backward.graph, graph, made)
    gradients: Any = backward.graph.output_node().args[0]
    kept = [
        *(made[output] for output in returned[:outputs]),
        *(made[output] for output in gradients if isinstance(output, fx.Node)),
    ]
    graph.output(tuple(kept))
    return graph


def _copy(source: fx.Graph, target: fx.Graph, made: dict[fx.Node, fx.Node]) -> None:
    """Copies all calls that somebody needs, and placeholders that are not there yet."""
    for node in source.nodes:
        # Random operators too: the partitioner leaves copies of them that nobody takes.
        unused = node.op == "call_function" and not node.users and not _changes_something(node)
        if node.op != "output" and node not in made and not unused:
            made[node] = target.node_copy(node, lambda argument: made[argument])


def _assembled(graph: fx.Graph, owner: fx.GraphModule) -> Assembled:
    """Nodes, storages and calls of a graph with values of its own, so that copies have storages of their own."""
    inputs = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    module = fx.GraphModule(owner, graph)
    mode = mode_of(next(input_value for input_value in inputs if isinstance(input_value, Tensor)))
    FakeTensorProp(module, mode).propagate_dont_convert_inputs(*inputs)
    constants = {str(node.target): getattr(owner, str(node.target)) for node in graph.nodes if node.op == "get_attr"}
    return assemble(Calls(module.graph, constants), [Role.OTHER] * len(inputs))

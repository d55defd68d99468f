"""A plan in the forms that torch takes: a policy for selective checkpointing, and a solver for its partitioner."""

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from labtrail.errors import LabtrailError
from labtrail.stepgraph.ir import Phase, Role
from labtrail.stepgraph.trace import TracedStep


class ExportError(LabtrailError):
    """A form that this version of torch does not know."""


def _decisions(traced: TracedStep, dropped: Collection[int]) -> Iterator[tuple[str, bool]]:
    """(operator, whether its result is kept) of every call of the forward pass, in order.

    What is changed in place later is not kept: torch would keep the changed value.
    """
    graph = traced.graph
    changed = {storage for node in graph.nodes for storage in node.writes if node.phase is Phase.FORWARD}
    for node in graph.nodes[graph.first_call :]:
        if node.phase is Phase.FORWARD:
            created = [storage for storage in node.storages if graph.storages[storage].creator == node.id]
            activations = [storage for storage in created if graph.storages[storage].role is Role.ACTIVATION]
            yield node.op, not changed & set(created) and any(activation not in dropped for activation in activations)


class _Policy:
    """Tells for the n-th call of an operator whether its result is kept; the repetition counts again."""

    def __init__(self, kept: Collection[tuple[str, int]]) -> None:
        self._kept = kept
        self._calls: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}

    def __call__(self, context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        calls, name = self._calls[context.is_recompute], str(operator)
        calls[name] += 1
        saved = (name, calls[name]) in self._kept
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE


def checkpoint_contexts(traced: TracedStep, dropped: Collection[int]) -> Callable[[], Any]:
    """The ``context_fn`` of ``torch.utils.checkpoint.checkpoint`` around the loss of a step.

    Torch then keeps what the plan keeps. It repeats the rest of the region at once, so that its peak is above the
    plan's; under torch.compile it is torch that decides when.

    Args:
        traced: the step as it was traced, nothing in place that was not before.
        dropped: storages of its graph.
    """
    kept, calls = set(), Counter[str]()
    for name, is_kept in _decisions(traced, dropped):
        calls[name] += 1
        if is_kept:
            kept.add((name, calls[name]))
    return lambda: create_selective_checkpoint_contexts(_Policy(kept))


def knapsack_solver(traced: TracedStep, dropped: Collection[int]) -> Any:
    """The ``activation_memory_budget_solver`` that answers with a plan, for ``torch.compile``.

    Torch asks it what may be computed again; calls are recognised by their operator and its count. It is asked with any
    budget between 0 and 1.

    Args:
        traced: the step as it was traced.
        dropped: storages of its graph.

    Raises:
        ExportError: this version of torch takes no solver.
    """
    try:
        from torch._inductor.custom_graph_pass import CustomKnapsackSolver
    except ImportError as error:
        raise ExportError("this version of torch takes no solver of one's own; 2.13 does") from error

    decisions: dict[tuple[str, int], bool] = {}
    calls = Counter[str]()
    for name, kept in _decisions(traced, dropped):
        calls[_plain(name)] += 1
        decisions[_plain(name), calls[_plain(name)]] = kept

    class PlanSolver(CustomKnapsackSolver):
        """Answers with the plan."""

        def __call__(
            self,
            memory: list[float],
            joint_graph: Any,
            max_memory: float,
            node_info: Any,
            all_recomputable_banned_nodes: Sequence[Any],
        ) -> tuple[list[int], list[int]]:
            """(indices of what is saved, of what is computed again) among the nodes asked about."""
            del memory, max_memory, node_info
            counts = Counter[str]()
            number: dict[str, tuple[str, int]] = {}
            for node in joint_graph.nodes:
                if node.op == "call_function":
                    name = _plain(str(node.target))
                    counts[name] += 1
                    number[node.name] = (name, counts[name])
            saved = [decisions.get(number.get(node.name, ("", 0)), True) for node in all_recomputable_banned_nodes]
            return [i for i, kept in enumerate(saved) if kept], [i for i, kept in enumerate(saved) if not kept]

        def uuid(self) -> str:
            """Equal for equal plans: compiled code is kept under it."""
            return repr(sorted(decisions.items()))

    return PlanSolver()


@functools.cache
def _plain(name: str) -> str:
    """An operator's name without what tells its variants apart: in place, functional."""
    operator = name.removeprefix("aten.").split(".")[0]
    return operator.removesuffix("_functional").removesuffix("_legit").strip("_")

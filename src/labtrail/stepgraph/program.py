"""Runs a traced step on real tensors, operator by operator, and drops every value after its last use."""

import functools
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor

from labtrail.stepgraph.assemble import Call, Ref
from labtrail.stepgraph.trace import TracedStep

Look = Callable[[int, list[Any]], None]


class Watcher(NamedTuple):
    """Looks on while a program runs, with a node's id and the values by id; what is None costs nothing.

    Attributes:
        begun: before the first node, when everything is in place.
        starting: before a node runs.
        executed: when its value is there, and all others still are.
        finished: when the values whose last use it was have been dropped.
    """

    begun: Callable[[], None] | None = None
    starting: Look | None = None
    executed: Look | None = None
    finished: Look | None = None


_NOBODY = Watcher()


class _Instruction(NamedTuple):
    """One node.

    Attributes:
        function: called with the arguments that ``arguments`` takes from the values.
        arguments: values to positional arguments.
        dropped: ids of the values that are not needed after it.
    """

    function: Callable[..., Any]
    arguments: Callable[[list[Any]], Sequence[Any]]
    dropped: tuple[int, ...]


class Program:
    """A traced step, ready to run any number of times.

    Attributes:
        first: id of the first node that is computed.
        nodes: their number, placeholders included.
    """

    def __init__(self, traced: TracedStep) -> None:
        graph = traced.graph
        self.first, self.nodes = graph.first_call, len(graph.nodes)
        self._outputs = graph.outputs
        # Constant arguments lie behind the values, so that one itemgetter finds all arguments of a call.
        self._constants: list[Any] = []
        dropped: list[list[int]] = [[] for _ in graph.nodes]
        kept = set(graph.outputs)
        for node, last in zip(graph.nodes, graph.last_uses, strict=True):
            if not node.is_placeholder and node.id not in kept:
                dropped[last].append(node.id)
        self._instructions = [
            self._instruction(traced.calls[index], tuple(dropped[index])) for index in range(self.first, self.nodes)
        ]

    def _instruction(self, call: Call, dropped: tuple[int, ...]) -> _Instruction:
        if not _refers(call.kwargs):
            function = functools.partial(call.target, **call.kwargs) if call.kwargs else call.target
            return _Instruction(function, self._getter(call.args), dropped)
        names, count = tuple(call.kwargs), len(call.args)

        def keyed(*arguments: Any) -> Any:
            return call.target(*arguments[:count], **dict(zip(names, arguments[count:], strict=True)))

        return _Instruction(keyed, self._getter((*call.args, *call.kwargs.values())), dropped)

    def _getter(self, args: Sequence[Any]) -> Callable[[list[Any]], Sequence[Any]]:
        if any(_refers(arg) and not isinstance(arg, Ref) for arg in args):
            return lambda values: _resolved(args, values)
        places = [self._place(arg) for arg in args]
        if len(places) > 1:
            return itemgetter(*places)
        return lambda values: [values[place] for place in places]

    def _place(self, argument: Any) -> int:
        if isinstance(argument, Ref):
            return argument.id
        self._constants.append(argument)
        return self.nodes + len(self._constants) - 1

    def run(self, inputs: Sequence[Tensor], watcher: Watcher = _NOBODY) -> list[Tensor]:
        """One step; parameters, buffers and optimizer state are changed in place, as by the step itself.

        Gradient mode stays on, since some operators do other work without it; nothing is recorded, for no input
        requires a gradient.

        Args:
            inputs: the values of the placeholders, as ``TracedStep.inputs`` gives them.
            watcher: looks on.

        Returns:
            The loss and the gradients of the trained parameters.
        """
        values: list[Any] = [*inputs, *[None] * (self.nodes - len(inputs)), *self._constants]
        begun, starting, executed, finished = watcher
        if begun is not None:
            begun()
        for index, (function, arguments, dropped) in enumerate(self._instructions, self.first):
            if starting is not None:
                starting(index, values)
            values[index] = function(*arguments(values))
            if executed is not None:
                executed(index, values)
            for storage in dropped:
                values[storage] = None
            if finished is not None:
                finished(index, values)
        return [values[output] for output in self._outputs]


def _refers(value: Any) -> bool:
    """Whether the value of a node is somewhere in an argument."""
    if isinstance(value, Ref):
        return True
    if isinstance(value, dict):
        return any(_refers(inner) for inner in value.values())
    return isinstance(value, list | tuple) and any(_refers(inner) for inner in value)


def _resolved(argument: Any, values: list[Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.id]
    if isinstance(argument, list | tuple):
        return [_resolved(element, values) for element in argument]
    return argument

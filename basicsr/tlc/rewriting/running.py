"""Running traced graphs node by node, and the forwards that they were traced of."""

import inspect
from collections import OrderedDict
from collections.abc import Callable

from torch import fx, nn

from basicsr.tlc.rewriting.tracer import works_in_place

Values = dict[fx.Node, object]


class Interpreter(fx.Interpreter):
    """Runs a graph, and nothing in place."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, garbage_collect_values=False, graph=graph)

    def operation(self, node: fx.Node, value: Callable[[fx.Node], object]) -> object:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        if works_in_place(node):
            args = (args[0].clone(), *args[1:])
        return getattr(self, node.op)(node.target, args, kwargs)

    def run_node(self, n: fx.Node) -> object:
        return self.operation(n, self.env.__getitem__) if n.op.startswith("call_") else super().run_node(n)

    def placeholder(self, target: str, args: tuple, kwargs: dict) -> object:
        return next(self.args_iter)  # also that of *args


def run(twin: nn.Module, graph: fx.Graph, inputs: list) -> Values:
    """The values of all its nodes."""
    interpreter = Interpreter(twin, graph)
    interpreter.run(*inputs)
    return interpreter.env


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def output_of(graph: fx.Graph) -> fx.Node:
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def called(module: nn.Module, graph: fx.Graph, inputs: list) -> object:
    """What its own forward makes of the values of a graph's placeholders."""
    named = {node.target.lstrip("*"): x for node, x in zip(_placeholders(graph), inputs, strict=True)}
    bound = inspect.BoundArguments(inspect.signature(module.forward), OrderedDict(named))
    return module.forward(*bound.args, **bound.kwargs)  # its hooks stay, whatever its forward is

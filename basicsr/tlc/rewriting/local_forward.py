"""The callable that takes a forward's place: a graph's code, which copies and pickles take along."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import fx, nn

from basicsr.tlc.dryrun.shapes import tensors_in
from basicsr.tlc.local import Size, exporting
from basicsr.tlc.report import by


class Local:
    """Takes the place of a module's `forward`: in training mode, and of an empty batch, the module's own, else a rewritten
    graph's code.

    It works on the module's own layers and parameters, under their names. Copies and pickles take it along; replicas of
    nn.DataParallel, which share their attributes with the original, would run the original.
    """

    def __init__(self, module: nn.Module, graph: fx.Graph, windows: Iterable[Size]) -> None:
        self.__setstate__((module, steps_of(graph), tuple(dict.fromkeys(windows))))

    def extra_repr(self) -> str:
        """In the module's place: so that a printed net shows it."""
        shown = f"TLC: forward rewritten, window {', '.join(map(by, self.windows))}"
        return ", ".join(filter(None, (type(self.module).extra_repr(self.module), shown)))

    def __call__(self, *args, **kwargs):
        if self.module.training or _are_no_samples((args, *kwargs.values())):
            return type(self.module).forward(self.module, *args, **kwargs)
        return self.function(self.module, *args, **kwargs)

    @property
    def __code__(self):  # torch.export asks every forward for its source line
        return self.function.__code__

    def __getstate__(self) -> tuple[nn.Module, tuple["_Step", ...], tuple[Size, ...]]:
        return self.module, self.steps, self.windows

    def __setstate__(self, state: tuple[nn.Module, tuple["_Step", ...], tuple[Size, ...]]) -> None:
        self.module, self.steps, self.windows = state
        self.function = compiled(self.steps)
        parameters = list(inspect.signature(type(self.module).forward).parameters.values())[1:]
        self.__signature__ = inspect.Signature(parameters)


def _are_no_samples(given: tuple) -> bool:
    """Whether a batch is empty, so that nothing in it is local; views such as (N, -1) have no size then."""
    return not exporting.tracing() and any(x.ndim and x.shape[0] == 0 for x in tensors_in(given))


class _Step(NamedTuple):
    """A node, the nodes among its arguments by their numbers: a graph itself cannot be pickled."""

    op: str
    name: str
    target: "str | Callable | _Dispatched"
    args: tuple
    kwargs: dict


class _Number(NamedTuple):
    value: int


class _Dispatched(NamedTuple):
    """A function such as F.max_pool2d, one of several by its arguments, which pickle cannot find."""

    module: str
    name: str

    def function(self) -> Callable:
        return getattr(importlib.import_module(self.module), self.name)

    @classmethod
    def of(cls, target: str | Callable) -> "str | Callable | _Dispatched":
        if "<locals>" not in getattr(target, "__qualname__", ""):
            return target
        made = cls(target.__module__, target.__name__)
        return made if getattr(sys.modules.get(made.module), made.name, None) is target else target


def steps_of(graph: fx.Graph) -> tuple[_Step, ...]:
    numbers = {node: _Number(index) for index, node in enumerate(graph.nodes)}
    steps = []
    for node in graph.nodes:
        args, kwargs = _mapped((node.args, dict(node.kwargs)), fx.Node, numbers.__getitem__)
        steps.append(_Step(node.op, node.name, _Dispatched.of(node.target), args, kwargs))
    return tuple(steps)


def _mapped(value: object, kind: type, function: Callable) -> object:
    """Nested tuples, lists and dicts with `function` applied to what is of a kind."""
    if isinstance(value, kind):
        return function(value)
    if isinstance(value, (tuple, list)):
        return (tuple if isinstance(value, tuple) else list)([_mapped(part, kind, function) for part in value])
    if isinstance(value, dict):
        return {key: _mapped(part, kind, function) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(part, kind, function) for part in (value.start, value.stop, value.step)))
    return value


def compiled(steps: tuple[_Step, ...]) -> Callable:
    """The function (module, *arguments) that torch.fx writes for a graph."""
    graph, nodes, stubs = fx.Graph(), [], {}
    for step in steps:
        args, kwargs = _mapped((step.args, step.kwargs), _Number, lambda number: nodes[number.value])
        target = step.target.function() if isinstance(step.target, _Dispatched) else step.target
        nodes.append(graph.create_node(step.op, target, args, kwargs, step.name))
        if step.op == "call_module":
            stubs[step.target] = nn.Identity()
        elif step.op == "get_attr":
            stubs[step.target] = nn.Parameter(torch.empty(0))
    return type(fx.GraphModule(stubs, graph)).forward

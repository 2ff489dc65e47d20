"""Functional instance and group norms, and layer norms over rows and columns."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.functional import local_group_norm, local_instance_norm
from basicsr.tlc.rewriting.patterns.reading import input_of, name_of
from basicsr.tlc.rewriting.trace import map_dims


@dataclass(frozen=True)
class Norm:
    """F.instance_norm, F.group_norm or F.layer_norm of `source`, (N, C, H, W)."""

    node: fx.Node
    source: fx.Node
    options: dict[str, object]  # num_groups, weight, bias, eps

    fast = True

    @property
    def before(self) -> str:
        return name_of(self.node)

    @property
    def after(self) -> str:
        return "local " + self.before

    @property
    def inputs(self) -> list[fx.Node]:
        return [self.source, *(value for value in self.options.values() if isinstance(value, fx.Node))]

    def emit(self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None) -> fx.Node:
        options = {name: new(value) for name, value in self.options.items()}
        groups = options.pop("num_groups", None)
        tail = (window, options["weight"], options["bias"], options["eps"], max_stride)
        if groups is None:
            return graph.call_function(local_instance_norm, (new(self.source), *tail))
        return graph.call_function(local_group_norm, (new(self.source), groups, *tail))


def norm(node: fx.Node) -> Norm | None:
    functions = {"instance_norm": F.instance_norm, "group_norm": F.group_norm, "layer_norm": F.layer_norm}
    function = functions.get(name_of(node)) if node.op == "call_function" else None
    if function is None or map_dims(input_of(node)) != (2, 3):
        return None
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if not given.get("use_input_stats", True):
        return None
    names = ("num_groups", "weight", "bias", "eps")
    options = {name: given[name] for name in names if name in given}
    if function is F.layer_norm:  # of maps, whose parameters could be of one size only
        if options["weight"] is not None or options["bias"] is not None or len(given["normalized_shape"]) not in (2, 3):
            return None
        if len(given["normalized_shape"]) == 3:
            options["num_groups"] = 1
    return Norm(node, input_of(node), options)

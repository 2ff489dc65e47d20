"""Learned maps whose sum, with weights that a statistic makes, is stretched to the image: stretched first, and summed then.

For each position has weights of its own in place of the one vector, and so a sum of its own, of which it sees one pixel. What
is made of the weights until then is linear: it is done with each weight alone, once for all images.
"""

import inspect
import math

import torch.nn.functional as F
from torch import fx

from basicsr.tlc.local.learned import one_hot, resized_sum
from basicsr.tlc.rewriting.patterns.reading import (
    ADDITIONS,
    LAYOUTS,
    PRODUCTS,
    QUOTIENTS,
    has_samples,
    input_of,
    is_map,
    is_told,
    name_of,
)
from basicsr.tlc.rewriting.trace import growing_dims, grows, tensor_shapes
from basicsr.tlc.rewriting.tracer import Traced

_ONE = LAYOUTS | PRODUCTS | QUOTIENTS | {"matmul", "bmm", "einsum", "sum", "repeat", "tile", "repeat_interleave", "neg"}
_ALL = ADDITIONS | {"cat", "stack", "concat"}  # linear in one of their inputs, in all of them
_MOST = 64  # weights: each map is stretched by itself


def exchange(traced: Traced) -> None:
    """Replace such maps in the graph, which keeps its result."""
    for node in list(traced.graph.nodes):
        learned = input_of(node)
        if name_of(node) != "interpolate" or learned is None or not is_map(node) or grows(learned):
            continue
        spread = [tensor_shapes(learned)[0][dim] for dim in growing_dims(node)]
        weights = _weights(learned)
        if len(weights) != 1 or max(spread) == 1:
            continue
        (vector,) = weights
        parameter = _parameter(learned, vector)
        if parameter and has_samples(vector) and math.prod(tensor_shapes(vector)[0][1:]) <= _MOST:
            _replace(traced, node, vector, parameter)


def _weights(node: fx.Node) -> set[fx.Node]:
    """What a node is a linear function of."""
    inputs = [x for x in node.all_input_nodes if tensor_shapes(x)]
    samples = [x for x in inputs if has_samples(x)]
    divides = name_of(node) in QUOTIENTS and node.args[0] not in samples
    if name_of(node) in _ONE and len(samples) == 1 and not divides:
        return _weights(samples[0])
    if name_of(node) in _ALL and samples == inputs and not any(isinstance(x, (int, float)) and x for x in node.args[:2]):
        return set().union(*map(_weights, samples))
    return {node}


def _parameter(node: fx.Node, vector: fx.Node) -> fx.Node | None:
    """A tensor of the module's own that a node is made of, besides of the vector."""
    queue = [node]
    for x in queue:
        if x.op == "get_attr" and tensor_shapes(x):
            return x
        queue += [y for y in x.all_input_nodes if y is not vector and y not in queue]
    return None


def _replace(traced: Traced, node: fx.Node, weights: fx.Node, parameter: fx.Node) -> None:
    shape = tensor_shapes(weights)[0][1:]
    count = math.prod(shape)
    options = inspect.signature(F.interpolate).bind(*node.args, **node.kwargs).arguments
    learned = options.pop("input")

    def create(kind: str, target: object, args: tuple, kwargs: dict) -> fx.Node:
        made = traced.create_node(kind, target, args, kwargs)
        made.meta.update(line=node.meta["line"], path=node.meta["path"])
        return made

    with traced.graph.inserting_before(node):
        copies = {weights: create("call_function", one_hot, (parameter, shape), {})}

        def copied(x: fx.Node) -> object:
            """What it is when each weight is a sample."""
            if _counts_samples(x):
                return count
            if x not in copies and _is_of_samples(x):
                copies[x] = create(x.op, x.target, *fx.node.map_arg((x.args, x.kwargs), copied))
            return copies.get(x, x)

        maps = copied(learned)
        vector = create("call_method", "reshape", (weights, (-1, count, 1, 1)), {})
        node.replace_all_uses_with(create("call_function", resized_sum, (vector, maps), options))


def _counts_samples(x: fx.Node) -> bool:
    return not grows(x) and (is_told(x) or (x.op == "call_method" and x.target == "size"))


def _is_of_samples(x: fx.Node) -> bool:
    return _counts_samples(x) or has_samples(x) or any(map(_is_of_samples, x.all_input_nodes))

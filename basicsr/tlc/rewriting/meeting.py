"""Where what was made of a statistic meets the map again: position by position, the positions being samples before."""

import math
from collections.abc import Mapping

from torch import Tensor, fx

from basicsr.tlc.local.statistics import from_batch, pixels_as_samples, repeated
from basicsr.tlc.rewriting.arguments import Samples
from basicsr.tlc.rewriting.declined import Declined
from basicsr.tlc.rewriting.patterns import Pattern
from basicsr.tlc.rewriting.trace import grows, map_dims, tensor_shapes

_ANOTHER_SIZE = (
    "what it makes of its statistic meets a map of another size than the one that it was taken of, so that positions are not "
    "the same; resize that map before, or take a statistic of each"
)
_Nodes = dict[fx.Node, fx.Node]
_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "baddbmm", "einsum", "tensordot", "linear"}  # they take dimensions for others
_OTHERWISE = "what it makes of its statistic meets the map otherwise than pixel by pixel"


def meetings(patterns: Mapping[fx.Node, Pattern], merge: fx.Node, origins: dict[fx.Node, list[fx.Node]]) -> _Nodes | None:
    """The vectors that meet a map, each with a statistic of a map as large as that one. None: there is none, or they have
    another layout than the map."""
    dims, found = map_dims(merge), {}
    for vectors in merge.all_input_nodes:
        if vectors not in origins or not _is_one(vectors):
            continue
        shapes = tensor_shapes(vectors)
        if dims is None or shapes is None or len(shapes[0]) != len(tensor_shapes(merge)[0]):
            return None
        if merge.meta["name"] in _PRODUCTS:
            return None
        alike = [origin for origin in origins[vectors] if sizes_of(patterns[origin].source) == sizes_of(merge)]
        sides = {patterns[origin].sides for origin in origins[vectors]}
        if not alike or len(sides) > 1 or any(shapes[0][dims[side]] != 1 for side in next(iter(sides))):
            return None
        found[vectors] = alike[0]
    return found


def by_pixel(
    graph: fx.Graph,
    merge: fx.Node,
    patterns: Mapping[fx.Node, Pattern],
    origins: dict[fx.Node, list[fx.Node]],
    made: _Nodes,
    statistics: _Nodes,
) -> fx.Node:
    """The map that vectors of another layout meet, such as in a product of matrices or in an equation: each of its pixels is a
    sample by itself, a map of one pixel, as each position of a statistic is.

    Args:
        made: the nodes of `graph`; statistics: the maps in the place of statistics.

    Raises:
        Declined: it is given something else than maps of that size.
    """
    if map_dims(merge) is None:
        raise Declined(_OTHERWISE)
    new, size = {}, sizes_of(merge)
    sources = [patterns[origin].source for x in merge.all_input_nodes for origin in origins.get(x, [])]
    source = next((x for x in sources if sizes_of(x) == size), None)
    if source is None or len({sizes_of(x)[0] for x in sources}) > 1:
        raise Declined(_ANOTHER_SIZE)
    place = (made[source], map_dims(source))
    for x in merge.all_input_nodes:
        if x in origins:
            pattern = patterns[origins[x][0]]
            if len(pattern.sides) < 2:
                raise Declined(_OTHERWISE)
            if _is_one(x):
                new[x] = graph.call_function(repeated, (made[x], statistics[origins[x][0]], pattern.positions, *place))
        elif map_dims(x) and sizes_of(x) == size:
            new[x] = graph.call_function(pixels_as_samples, (made[x], map_dims(x)))
        elif grows(x):
            if x.meta["values"] not in [*zip(*size, strict=True), tuple(map(math.prod, size))]:
                raise Declined(_OTHERWISE)
            new[x] = 1
    samples = [y for y in new.values() if isinstance(y, fx.Node)]
    counts = sample_counts(graph, merge, made, graph.call_method("size", (samples[0], 0))) if samples else {}
    out = graph.node_copy(merge, lambda x: x)
    out.args, out.kwargs = fx.node.map_arg((merge.args, merge.kwargs), lambda x: {**made, **new, **counts}[x])
    return graph.call_function(from_batch, (out, *place, map_dims(merge)))


def sample_counts(graph: fx.Graph, node: fx.Node, made: _Nodes, samples: fx.Node) -> _Nodes:
    """The inputs of a node that are numbers of samples, or multiples of such, where there are `samples`."""
    found: dict[fx.Node, fx.Node | None] = {}

    def count(x: fx.Node) -> fx.Node | None:
        if x not in found:
            found[x] = samples if is_batch_size(x) else None
            others = {y: count(y) for y in x.all_input_nodes} if _is_number(x) and not is_batch_size(x) else {}
            if any(others.values()):
                found[x] = graph.node_copy(x, lambda y: others[y] or made[y])
        return found[x]

    return {x: made for x in node.all_input_nodes if (made := count(x))}


def sizes_of(node: fx.Node) -> list[tuple[int, ...]]:
    """Rows and columns of a map at both sizes."""
    return [tuple(shape[dim] for dim in map_dims(node)) for shape in tensor_shapes(node)]


def _is_one(node: fx.Node) -> bool:
    return isinstance(node.meta["values"][0], Tensor)


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("values", (None,))[0], int) and not grows(node)


def is_batch_size(node: fx.Node) -> bool:
    """Whether it is asked of a tensor, or told by an argument."""
    asked = node.op == "call_method" and node.target == "size" and node.args[1] == 0
    return asked or isinstance(node.meta.get("values", (None,))[0], Samples)

"""Pixels that a forward has as one sequence are given rows and columns where a statistic is taken of them, and where one meets
them: a statistic's local form is a map, which has both.

What is done here changes no value: sequences are unflattened and flattened again, by sizes that the forward has at hand.
"""

import math
import operator
from collections.abc import Iterable, Iterator

import torch
from torch import fx

from basicsr.tlc.rewriting.arguments import as_converted, mapped
from basicsr.tlc.rewriting.meeting import is_batch_size, sizes_of
from basicsr.tlc.rewriting.patterns import ChannelAttention, Pattern, Pooling, find
from basicsr.tlc.rewriting.patterns.equations import Equation, product
from basicsr.tlc.rewriting.patterns.reading import NotSums, between, input_of, name_of, pixels_of, product_of
from basicsr.tlc.rewriting.trace import growing_dims, grows, map_dims, tensor_shapes
from basicsr.tlc.rewriting.tracer import Traced
from basicsr.tlc.rewriting.trial import pixels

_REPEATS = {"expand", "repeat", "repeat_interleave", "broadcast_to"}
_PRODUCTS = {"matmul", "bmm", "baddbmm", "__matmul__", "einsum", "scaled_dot_product_attention"}
_Sides = tuple[fx.Node | int, ...]  # the numbers of rows and of columns, between those of channels


def give_rows_and_columns(traced: Traced, pools: set[str]) -> None:
    """To sequences that the module is given, and to those that statistics are taken of. `pools`: names of pooling modules."""
    nodes, given = [*traced.graph.nodes], set()
    for node in nodes:
        inner = node.target in (operator.getitem, as_converted) and node.args[0] in given
        if node.op not in ("placeholder", "get_attr") and not inner:
            break
        given.add(node)
    for sequence in given:
        users = [user for user in sequence.users if user not in given and name_of(user) != "size"]
        _through_a_map(traced, sequence, users, node)
    found = find(traced.graph, pools)
    attending = _attending(traced.graph, found)
    for node in nodes:
        source = input_of(node)
        if source is None or node in found or node in attending or "values" not in node.meta:
            continue
        if _summarises(node, pools):
            _through_a_map(traced, source, [node], node)


def let_meet_maps(traced: Traced, found: dict[fx.Node, Pattern]) -> None:
    """Where vectors that are made of statistics meet a sequence index by index, let them meet a map."""
    vectors = {node for node, pattern in found.items() if isinstance(pattern, Pooling)}
    attending = _attending(traced.graph, found)
    for node in [*traced.graph.nodes]:
        if "values" not in node.meta or node in vectors | attending or vectors.isdisjoint(node.all_input_nodes):
            continue
        if not grows(node):
            vectors.add(node)
            continue
        _count_samples_of_maps(traced, node, vectors, found)
        if len(growing_dims(node)) == 1 and node not in found and not vectors.isdisjoint(node.all_input_nodes):
            sides = _sides(traced, node, node) or _sides_of_sources(traced, node, found)
            if sides and name_of(node) in _REPEATS:
                _repeat(traced, node, sides)
            elif sides and (equation := product(node)):
                if _is_small(equation, vectors):
                    _in_an_equation(traced, node, equation, sides)
            elif sides:
                _meet_a_map(traced, node, sides)


def _summarises(node: fx.Node, pools: set[str]) -> bool:
    """Whether it makes one value of a whole sequence."""
    looks = node.meta["operations"] or (node.op == "call_module" and node.target in pools)
    return bool(looks) and tensor_shapes(node) is not None and not grows(node) and product_of(node) is None


def _count_samples_of_maps(traced: Traced, node: fx.Node, vectors: set[fx.Node], found: dict[fx.Node, Pattern]) -> None:
    """Where a map's shape takes the number of samples from a vector, which has one for each position of the local form."""
    sources = [pattern.source for pattern in found.values() if isinstance(pattern, Pooling)]
    for x in filter(is_batch_size, vectors.intersection(node.all_input_nodes)):
        alike = [source for source in sources if tuple(shape[0] for shape in tensor_shapes(source)) == tuple(x.meta["values"])]
        if alike:
            node.replace_input_with(x, traced.insert_method(node, "size", alike[0], 0))


def _attending(graph: fx.Graph, found: dict[fx.Node, Pattern]) -> set[fx.Node]:
    """What makes the matrices of attentions, whose statistics are those of its windows; and all that ends in sums over pixels
    that stay."""
    staying = set()
    for node in reversed(graph.nodes):
        sums = name_of(node) in _PRODUCTS and node not in found and node.meta["operations"]
        if sums or not staying.isdisjoint(node.users):
            staying.add(node)
    return staying.union(*(between(node, p.inputs) for node, p in found.items() if isinstance(p, ChannelAttention)))


def _through_a_map(traced: Traced, sequence: fx.Node, users: Iterable[fx.Node], before: fx.Node) -> None:
    """Let some users of a sequence have it by way of a map."""
    dims = growing_dims(sequence)
    if users and len(dims) == 1 and _channels(sequence) == (1, 1) and (sides := _sides(traced, sequence, before)):
        rows = traced.insert(before, torch.unflatten, sequence, dims[0], sides)
        flat = traced.insert(before, torch.flatten, rows, dims[0], dims[0] + 1)
        for user in users:
            user.replace_input_with(sequence, flat)


def _sides(traced: Traced, sequence: fx.Node, before: fx.Node) -> _Sides | None:
    """Nodes that say how many rows and columns the map has whose pixels a sequence has: of a map as large as that one, or of a
    number of its rows or of its columns; None where there is none before a node. Channels that it holds, too, come before or
    after these."""
    channels, found = _channels(sequence), pixels(*sequence.meta["values"], channels=True)
    if channels is None or found is None:
        return None
    outer, inner = ([count] if count > 1 else [] for count in channels)
    sides = _rows_and_columns(traced, sequence, before, found, math.prod(channels))
    return sides and (*outer, *sides, *inner)


def _channels(sequence: fx.Node) -> tuple[int, int] | None:
    """How many channels it holds outside and inside of its pixels."""
    try:
        return pixels_of(sequence)[:2]
    except NotSums:
        return None


def _rows_and_columns(
    traced: Traced, sequence: fx.Node, before: fx.Node, found: tuple[int, int], channels: int
) -> tuple[fx.Node, fx.Node] | None:
    (dim,), shapes = growing_dims(sequence), tensor_shapes(sequence)
    count, numbers = shapes[0][dim] // channels, []
    for node in _before(traced.graph, before):
        dims = map_dims(node)
        small, large = (tuple(shape[dim] for dim in dims) for shape in tensor_shapes(node)) if dims else (None, None)
        if large == found and math.prod(small) == count:
            return tuple(traced.insert_method(before, "size", node, dim) for dim in dims)
        if tensor_shapes(node) is None:
            mapped(node.meta["values"], lambda small, large, path, node=node: numbers.append((small, large, node, path)))
    for small, large, node, path in numbers if channels == 1 else ():
        if type(small) is type(large) is int and large in found and small not in (0, large) and count % small == 0:
            for key in path:
                node = traced.insert(before, operator.getitem, node, key)
            other = traced.insert(before, operator.floordiv, traced.insert_method(before, "size", sequence, dim), node)
            return (node, other) if large == found[0] else (other, node)
    return None


def _sides_of_sources(traced: Traced, node: fx.Node, found: dict[fx.Node, Pattern]) -> _Sides | None:
    """Of the map that a vector is made of, where it is repeated for as many pixels as that has."""
    counts = [shape[growing_dims(node)[0]] for shape in tensor_shapes(node)]
    for pattern in found.values():
        if isinstance(pattern, Pooling) and [*map(math.prod, sizes_of(pattern.source))] == counts:
            return tuple(traced.insert_method(node, "size", pattern.source, dim) for dim in map_dims(pattern.source))
    return None


def _before(graph: fx.Graph, before: fx.Node) -> Iterator[fx.Node]:
    for node in [*graph.nodes]:
        if node is before:
            return
        yield node


def _meet_a_map(traced: Traced, node: fx.Node, sides: _Sides) -> None:
    """Do what a node does index by index on maps."""
    by_index = node.meta["keeps"] and name_of(node) not in ("cat", "conv1d") and node.op != "call_module"
    if not (by_index or name_of(node) == "expand_as"):
        return
    (dim,), ndim = growing_dims(node), len(tensor_shapes(node)[0])

    def unflattened(x: fx.Node) -> fx.Node:
        shapes = tensor_shapes(x)
        own = None if shapes is None else len(shapes[0]) - ndim + dim  # dimensions are counted from the end
        if own is None or own < 0:
            return x
        if shapes[0][own] == 1:
            for _ in sides[1:]:
                x = traced.insert(node, torch.unsqueeze, x, own)
            return x
        return traced.insert(node, torch.unflatten, x, own, sides)

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), unflattened)
    _replace(traced, node, traced.insert_like(node, args, kwargs), len(sides))


def _repeat(traced: Traced, node: fx.Node, sides: _Sides) -> None:
    """Repeat a vector for each row and column instead of for each pixel."""
    (dim,), ndim = growing_dims(node), len(tensor_shapes(node)[0])
    once = fx.node.map_arg((node.args, node.kwargs), lambda x: 1 if grows(x) and tensor_shapes(x) is None else x)
    vector = traced.insert_like(node, *once)
    if growing_dims(vector) or len(tensor_shapes(vector)[0]) != ndim or tensor_shapes(vector)[0][dim] != 1:
        return
    sizes = [*[-1] * dim, *sides, *[-1] * (ndim - dim - 1)]
    for _ in sides[1:]:
        vector = traced.insert(node, torch.unsqueeze, vector, dim)
    _replace(traced, node, traced.insert_method(node, "expand", vector, *sizes), len(sides))


def _replace(traced: Traced, node: fx.Node, made: fx.Node, count: int) -> None:
    """By a map, `count` dimensions flattened."""
    (dim,) = growing_dims(node)
    flat = traced.insert(node, torch.flatten, made, dim, dim + count - 1)
    flat.meta["keeps"] = True  # each pixel is where it was
    node.replace_all_uses_with(flat)
    traced.graph.erase_node(node)


def _is_small(equation: Equation, vectors: set[fx.Node]) -> bool:
    """Whether a vector, of which each position gets one, has no more numbers than a pixel; matrices of all channels have."""
    sizes = {True: 0, False: 0}
    for x in equation.operands:
        grown = math.prod(tensor_shapes(x)[0][dim] for dim in growing_dims(x))
        sizes[x in vectors] = math.prod(tensor_shapes(x)[0][1:]) // grown
    return sizes[True] <= sizes[False]


def _in_an_equation(traced: Traced, node: fx.Node, equation: Equation, sides: _Sides) -> None:
    """Let a product of matrices be one of maps."""
    (dim,) = growing_dims(node)
    label, operands = equation.out[dim], []
    for x, labels in zip(equation.operands, equation.inputs, strict=True):
        has = label in labels
        operands.append(traced.insert(node, torch.unflatten, x, labels.index(label), sides) if has else x)
    text = equation.text.replace(label, "ABCD"[: len(sides)])  # labels are in lower case
    _replace(traced, node, traced.insert(node, torch.einsum, text, *operands), len(sides))

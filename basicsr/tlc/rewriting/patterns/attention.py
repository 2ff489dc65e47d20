"""Attention between channels: products of a map with a matrix that is made of sums over its pixels."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.statistics import local_token_attention
from basicsr.tlc.rewriting.patterns.equations import Equation, product, squares
from basicsr.tlc.rewriting.patterns.folding import Folded
from basicsr.tlc.rewriting.patterns.reading import (
    ADDITIONS,
    DIFFERENCES,
    LAYOUTS,
    PRODUCTS,
    QUOTIENTS,
    NotSums,
    input_of,
    is_map,
    map_with_pixels,
    name_of,
    pixels_of,
    product_of,
    untransposed,
)
from basicsr.tlc.rewriting.trace import Declined, grows, map_dims, tensor_shapes

_RATIO = (
    "its products with sums over the map are divided by other sums of the same map, or combined with them, so that only what "
    "windows make of all of them could be averaged: name its module in in_windows"
)


@dataclass(frozen=True)
class ChannelAttention:
    """A product with a matrix that sees the image by sums over its pixels, such as softmax(q k^T) @ v.

    Attributes:
        source: a map with the pixels that are summed over.
        inputs: what it is made of, and does not depend on windows. summed: those of them that are summed over.
        plain: where it is of the form that most nets have.
    """

    node: fx.Node
    source: fx.Node
    equation: Equation
    inputs: tuple[fx.Node, ...]
    summed: tuple[fx.Node, ...]
    plain: "_Plain | None"
    pools: frozenset[str]
    blended: bool

    before = "attention between channels"
    after = "local channel attention"
    fast = False

    def emit(
        self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None, folded: dict
    ) -> fx.Node:
        """folded: what was made of the sums for other products."""
        if self.plain:
            return self.plain.emit(graph, new, self.source, window, self.blended)
        key = (self.source, window)
        if key not in folded:
            folded[key] = Folded(graph, new, self.source, window, self.blended, self.pools)
        return folded[key].product(self.node, self.equation)


@dataclass(frozen=True)
class _Plain:
    """softmax(normalised q @ normalised k^T * scales) @ v, for which there is a faster way."""

    q: fx.Node
    k: fx.Node
    v: fx.Node
    scales: tuple[tuple[bool, object], ...]  # (whether it divides, by what)

    @property
    def tensors(self) -> list[fx.Node]:
        return [value for _, value in self.scales if isinstance(value, fx.Node)]

    def emit(self, graph: fx.Graph, new: Callable[[object], object], source: fx.Node, window: Size, blended: bool) -> fx.Node:
        temperature = 1.0
        for divides, value in self.scales:
            temperature = graph.call_function(operator.truediv if divides else operator.mul, (temperature, new(value)))
        size = tuple(graph.call_method("size", (new(source), dim)) for dim in map_dims(source))
        args = (new(self.q), new(self.k), new(self.v), temperature, size, window, blended)
        return graph.call_function(local_token_attention, args)


def attention(node: fx.Node, pools: set[str], blended: bool, found: dict[fx.Node, object]) -> ChannelAttention | None:
    """found: the patterns before it."""
    equation = product(node)
    if equation is None or not is_map(node) or len(maps := [x for x in equation.operands if is_map(x)]) != 1:
        return None
    equation = equation if equation.operands[1] is maps[0] else equation.swapped()
    if not _correlates(equation.operands[0]):
        return None
    scratch, asked = fx.Graph(), {}

    def ask(x: object) -> object:
        return fx.node.map_arg(x, lambda y: asked.setdefault(y, scratch.placeholder(y.name)))

    try:
        *_, pixels = pixels_of(maps[0])
        source = map_with_pixels(_origin(maps[0]), pixels) or map_with_pixels(maps[0], pixels)
        if source is None:
            return None
        folded = Folded(scratch, ask, source, (1, 1), blended, pools)
        folded.product(node, equation)
    except NotSums:
        return None
    if any(_is_part(x, found) for x in folded.raws):
        return None
    _refuse_ratios(node, folded.raws)
    plain = _plain(node)
    if plain and ({plain.q, plain.k, plain.v} != {*folded.raws} or any(map(folded.depends, plain.tensors))):
        plain = None
    return ChannelAttention(node, source, equation, tuple(asked), tuple(folded.raws), plain, frozenset(pools), blended)


def _correlates(matrix: fx.Node) -> bool:
    """Whether it is made of products that are summed over pixels."""
    queue = [matrix]
    for node in queue:
        maps = [x for x in node.all_input_nodes if is_map(x)]
        if maps and not is_map(node) and (product(node) or squares(maps[0])):
            return True
        queue += [x for x in node.all_input_nodes if not is_map(x) and x not in queue]
    return False


def _is_part(x: fx.Node, found: dict[fx.Node, object]) -> bool:
    """Whether a map was made by looking at all of it, as by a softmax over pixels, before it is summed over."""
    queue = [x]
    for node in queue:
        if node in found or node.op not in ("call_function", "call_method"):
            continue
        if node.meta.get("operations"):
            return True
        queue += [y for y in node.all_input_nodes if is_map(y) and y not in queue]
    return False


def _refuse_ratios(node: fx.Node, raws: list[fx.Node]) -> None:
    """Raises Declined where the product meets other sums of the same maps, or another such product otherwise than by addition:
    what windows make of both would have to be averaged, not what they make of each."""
    queue = [node]
    for made in queue:
        for user in made.users:
            name = name_of(user)
            if name not in LAYOUTS | PRODUCTS | QUOTIENTS | ADDITIONS | DIFFERENCES:
                continue
            others = [x for x in user.all_input_nodes if x not in queue]
            if any(_of_sums(x, raws, products=name in PRODUCTS | QUOTIENTS) for x in others):
                raise Declined(_RATIO)
            if user not in queue:
                queue.append(user)


def _of_sums(x: fx.Node, raws: list[fx.Node], products: bool) -> bool:
    """Whether it is made of sums of these maps, with nothing learned in between; `products`: also of products with them."""
    queue = [x]
    for node in queue:
        if node.op not in ("call_function", "call_method") or node in raws:
            continue
        equation, maps = product(node), [y for y in node.all_input_nodes if is_map(y)]
        if equation and len(maps) == 1 and (_correlates(matrix := _other(equation, maps[0])) or _of_sums(matrix, raws, True)):
            if products:
                return True
            continue
        if maps and not is_map(node) and node.meta["operations"] and any(_origin(y) in map(_origin, raws) for y in maps):
            return True
        queue += [y for y in node.all_input_nodes if y not in queue]
    return False


def _other(equation: Equation, x: fx.Node) -> fx.Node:
    return next(y for y in equation.operands if y is not x)


def _origin(x: fx.Node) -> fx.Node:
    """What it was before its elements were moved, and scaled."""
    while name_of(x) in LAYOUTS | PRODUCTS | QUOTIENTS | ADDITIONS | DIFFERENCES | {"normalize"}:
        maps = [y for y in x.all_input_nodes if is_map(y)]
        if len(maps) != 1:
            break
        (x,) = maps
    return x


def _plain(node: fx.Node) -> _Plain | None:
    product = product_of(node)
    if product is None:
        return None
    matrix, v = product
    matrix = _unwrapped(matrix)
    if name_of(matrix) not in ("softmax", "Softmax"):
        return None
    inside, scales = _unscaled(input_of(matrix))
    product = product_of(inside) if inside is not None else None
    if product is None:
        return None
    (q, q_scales), (k, k_scales) = _unscaled(product[0]), _unscaled(untransposed(product[1]))
    if not all(map(_is_normalised, (q, k))) or _dim(matrix) not in (-1, matrix.meta["values"][0].ndim - 1):
        return None
    q, k = input_of(q), input_of(k)
    tokens = (tensor_shapes(q), tensor_shapes(k), tensor_shapes(v))
    if None in tokens or any(len(shapes[0]) not in (3, 4) for shapes in tokens):
        return None
    if any(pixels_of(x)[:2] != (1, 1) for x in (q, k, v)):  # channels among the pixels
        return None
    return _Plain(q, k, v, (*scales, *q_scales, *k_scales))


def _is_normalised(node: fx.Node | None) -> bool:
    """By F.normalize along the last dimension, as it is called mostly."""
    if name_of(node) != "normalize":
        return False
    p, dim, eps = (*node.args[1:], None, None, None)[:3]
    p, dim, eps = node.kwargs.get("p", p), node.kwargs.get("dim", dim), node.kwargs.get("eps", eps)
    return p in (None, 2) and eps in (None, 1e-12) and dim in (-1, node.meta["values"][0].ndim - 1)


def _dim(softmax: fx.Node) -> object:
    if softmax.op == "call_module":
        return softmax.meta["module"].dim
    return softmax.args[1] if len(softmax.args) > 1 else softmax.kwargs.get("dim")


def _unwrapped(node: fx.Node) -> fx.Node:
    """What dropout is given, which does nothing at test time."""
    while name_of(node).lower() in ("dropout", "identity") and input_of(node) is not None:
        node = input_of(node)
    return node


def _unscaled(node: fx.Node | None) -> tuple[fx.Node | None, tuple[tuple[bool, object], ...]]:
    """x of x * a / b, and a, b: numbers and tensors that do not depend on the image's size."""
    scales = ()
    while node is not None and name_of(node) in ("mul", "truediv", "div") and len(node.args) == 2:
        divides = name_of(node) != "mul"
        x, scale = node.args
        if not divides and not _is_scale(scale):
            x, scale = scale, x
        if not _is_scale(scale) or not isinstance(x, fx.Node):
            break
        node, scales = x, (*scales, (divides, scale))
    return node, scales


def _is_scale(value: object) -> bool:
    if not isinstance(value, fx.Node):
        return isinstance(value, (int, float))
    shapes = tensor_shapes(value)
    return not grows(value) and (shapes is None or shapes[0][-2:] in ((1, 1), (1,), ()))

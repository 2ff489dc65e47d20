"""Attention between channels, of maps whose pixels were flattened."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.statistics import local_token_attention
from basicsr.tlc.rewriting.patterns.reading import input_of, map_with_pixels, name_of, product_of, untransposed
from basicsr.tlc.rewriting.trace import grows, map_dims, tensor_shapes


@dataclass(frozen=True)
class TokenAttention:
    """Channel attention: softmax(normalised q @ normalised k^T * scales) @ v of maps whose pixels were flattened."""

    node: fx.Node
    source: fx.Node  # a map with that many pixels
    q: fx.Node
    k: fx.Node
    v: fx.Node
    scales: tuple[tuple[bool, object], ...]  # (whether it divides, by what)
    blended: bool

    before = "attention between channels"
    after = "local channel attention"
    fast = False

    @property
    def inputs(self) -> list[fx.Node]:
        return [self.source, self.q, self.k, self.v, *(value for _, value in self.scales if isinstance(value, fx.Node))]

    def emit(self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None) -> fx.Node:
        temperature = 1.0
        for divides, value in self.scales:
            temperature = graph.call_function(operator.truediv if divides else operator.mul, (temperature, new(value)))
        size = tuple(graph.call_method("size", (new(self.source), dim)) for dim in map_dims(self.source))
        args = (new(self.q), new(self.k), new(self.v), temperature, size, window, self.blended)
        return graph.call_function(local_token_attention, args)


def attention(node: fx.Node, blended: bool) -> TokenAttention | None:
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
    if name_of(q) != "normalize" or name_of(k) != "normalize":
        return None
    q, k = input_of(q), input_of(k)
    tokens = [tensor_shapes(x) for x in (q, k, v)]
    source = None if None in tokens else map_with_pixels(node, tuple(shape[-1] for shape in tokens[0]))
    if source is None or any(len(x[0]) not in (3, 4) or x[0][-1] != tokens[0][0][-1] for x in tokens):
        return None
    return TokenAttention(node, source, q, k, v, (*scales, *q_scales, *k_scales), blended)


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

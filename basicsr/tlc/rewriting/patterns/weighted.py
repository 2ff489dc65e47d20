"""Weighted means over the pixels: softmax over a flattened map, and the mean that it weighs."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.weighted import local_weighted_mean
from basicsr.tlc.rewriting.patterns.pooling import Pooling
from basicsr.tlc.rewriting.patterns.reading import input_of, map_with_pixels, name_of, product_of
from basicsr.tlc.rewriting.trace import growing_dims, map_dims, tensor_shapes

_RESHAPES = {
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "transpose",
    "permute",
    "swapaxes",
    "contiguous",
}
_RESHAPES |= {"expand", "expand_as", "rearrange", "Flatten", "Dropout", "dropout", "Identity"}


@dataclass(frozen=True)
class WeightedMean(Pooling):
    """softmax(logits) over the pixels, times the values, summed over the pixels.

    Attributes:
        logits, values: with rows and columns, or with these flattened.
        groups: of channels, each with masks of its own. transposed: whether the channels come before the masks.
    """

    logits: fx.Node
    values: fx.Node
    groups: int
    transposed: bool

    before = "weighted mean"
    after = "local weighted mean"
    fast = False

    @property
    def inputs(self) -> list[fx.Node]:
        return [self.source, self.logits, self.values]

    @property
    def summed(self) -> list[fx.Node]:
        return [self.logits, self.values]

    @property
    def positions(self) -> tuple[int, ...]:
        return (4, 5)

    def emit(
        self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None, padded: bool = True
    ) -> fx.Node:
        size = tuple(graph.call_method("size", (new(self.source), dim)) for dim in map_dims(self.source))
        (pixels,) = growing_dims(self.logits)
        args = (
            new(self.logits),
            pixels,
            new(self.values),
            growing_dims(self.values),
            size,
            self.groups,
            self.transposed,
            window,
        )
        return graph.call_function(local_weighted_mean, (*args, padded))


def weighted_mean(node: fx.Node) -> WeightedMean | None:
    shapes = tensor_shapes(node)
    if shapes is None or shapes[0] != shapes[1] or len(shapes[0]) < 2:
        return None
    if product := product_of(node):
        return _of_product(node, *product)
    return _of_sum(node) if name_of(node) == "sum" else None


def _of_product(node: fx.Node, first: fx.Node, second: fx.Node) -> WeightedMean | None:
    """weights @ values^T, (..., M, H * W) @ (..., H * W, C); or the other way round."""
    shape = tensor_shapes(node)[0]
    if len(shape) < 3:  # without a batch
        return None
    *groups, rows, columns = shape[1:]
    for weights, values, masks, channels in ((first, second, rows, columns), (second, first, columns, rows)):
        if logits := _logits(weights):
            return _checked(node, logits, values, math.prod(groups), masks, channels, transposed=weights is second)
    return None


def _of_sum(node: fx.Node) -> WeightedMean | None:
    """(values * weights).sum over the pixels: one mask for all channels, or one for each."""
    product = input_of(node)
    if name_of(product) != "mul" or len(product.args) != 2 or not all(isinstance(x, fx.Node) for x in product.args):
        return None
    channels = math.prod(tensor_shapes(node)[0][1:])
    for weights, values in (product.args, reversed(product.args)):
        if logits := _logits(weights):
            masks = _count(logits)
            groups, each = (1, channels) if masks == 1 else (masks, channels // masks)
            return _checked(node, logits, values, groups, 1, each, transposed=False)
    return None


def _checked(
    node: fx.Node, logits: fx.Node, values: fx.Node, groups: int, masks: int, channels: int, transposed: bool
) -> WeightedMean | None:
    """None where the numbers of elements are others."""
    pixels = tuple(shape[growing_dims(logits)[0]] for shape in tensor_shapes(logits))
    dims = growing_dims(values)
    if len(dims) not in (1, 2) or tuple(math.prod(shape[d] for d in dims) for shape in tensor_shapes(values)) != pixels:
        return None
    source = map_with_pixels(values, pixels) or map_with_pixels(logits, pixels)
    if source is None or (_count(logits), _count(values)) != (groups * masks, groups * channels):
        return None
    return WeightedMean(node, source, logits, values, groups, transposed)


def _logits(node: fx.Node | None) -> fx.Node | None:
    """What a softmax over the pixels is given, whose weights `node` holds in another shape."""
    while name_of(node) in _RESHAPES or (name_of(node) == "getattr" and node.args[1] in ("mT", "T")):
        node = input_of(node)
    if name_of(node) not in ("softmax", "Softmax"):
        return None
    logits = input_of(node)
    return logits if logits is not None and len(growing_dims(logits)) == 1 else None


def _count(node: fx.Node) -> int:
    """Elements of a sample, for each pixel."""
    dims = growing_dims(node)
    return math.prod(size for dim, size in enumerate(tensor_shapes(node)[0]) if dim and dim not in dims)

"""A part of a traced forward that sees the image by sums over its pixels alone, copied so that it works on the sums of windows.

The windows are further samples to what is made of the sums, as the positions are to what is made of a statistic (see
`rewrite`): numbers of samples are multiplied by that of the windows, numbers of pixels are those of a window.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from basicsr.tlc.local import Size
from basicsr.tlc.local import sums as local
from basicsr.tlc.rewriting.patterns.equations import (
    NORMS,
    Equation,
    order_of,
    positive_dims,
    product,
    reduced_dims,
    reduction,
    squares,
)
from basicsr.tlc.rewriting.patterns.reading import (
    ADDITIONS,
    DIFFERENCES,
    LAYOUTS,
    PRODUCTS,
    QUOTIENTS,
    NotSums,
    has_samples,
    input_of,
    is_map,
    is_told,
    name_of,
    pixels_of,
    told_sides,
)
from basicsr.tlc.rewriting.patterns.statistics import correction_of, statistic
from basicsr.tlc.rewriting.trace import growing_dims, grows, map_dims, tensor_shapes

_LEARNED = {"matmul", "bmm", "einsum", "linear", "conv1d", "conv2d", "conv3d"}


@dataclass(frozen=True)
class Operand:
    """scale * base + shift, of copied nodes; scale and shift may be None. `raw` is what the base holds, in the traced graph."""

    raw: fx.Node
    base: fx.Node
    scale: fx.Node | None = None
    shift: fx.Node | None = None

    @property
    def is_raw(self) -> bool:
        return self.scale is None and self.shift is None

    @property
    def triple(self) -> tuple:
        return self.base, self.scale, self.shift


class Folded:
    """Copies nodes of a traced graph to another one.

    Args:
        new: a node that does not depend on windows -> its copy.
        source: a map with the pixels that are summed over.
        pools: the names of global pooling modules inside.
    """

    def __init__(
        self, graph: fx.Graph, new: Callable[[object], object], source: fx.Node, window: Size, blended: bool, pools: set[str]
    ) -> None:
        self.graph, self.new, self.source, self.pools = graph, new, source, pools
        self.raws: list[fx.Node] = []  # what is summed over
        self._made: dict[fx.Node, object] = {}
        self._operands: dict[fx.Node, Operand] = {}
        self._single: dict[fx.Node, object] = {}  # numbers where a window has one pixel
        self._depends: dict[fx.Node, bool] = {}
        size = tuple(graph.call_method("size", (new(source), dim)) for dim in map_dims(source))
        self._window = window
        self._cover = (size, window, blended)
        self._count = self._call(local.window_count, self._cover)

    def product(self, node: fx.Node, equation: Equation) -> fx.Node:
        """The map that a matrix, the equation's first operand, makes of another one, its second."""
        matrix, x = equation.operands
        pixels = self._pixels(equation, (x,))
        if not {*pixels[0]} < {*equation.out} or any(labels[0] != equation.out[0] for labels in equation.inputs):
            raise NotSums("its product with the map is over pixels, or over samples")
        first, second = ({*labels} for labels in equation.inputs)
        if len(first - second) != 1 or len((first & second) - {*equation.out}) != 1:
            raise NotSums("its matrix is none")
        folded = self.value(matrix)
        return self._call(local.window_product, equation.text, pixels, folded, self._summed(x), self._cover)

    def value(self, node: object) -> object:
        """What a node that is no map is for the windows."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self._made:
            self._made[node] = self._valued(node)
        return self._made[node]

    def _valued(self, node: fx.Node) -> object:
        if is_map(node):
            raise NotSums(f"{name_of(node) or 'it'} looks at the map's pixels")
        first = node.args[0] if node.args else None
        if name_of(node) == "getattr" and isinstance(first, fx.Node) and is_map(first):  # its type, its device
            return self._call(getattr, self.operand(first).base, node.args[1])
        if _is_size(node) and is_map(first):
            return self._length(*node.args)
        if is_told(node):
            return self._told(node)
        if not self.depends(node):
            made = self.new(node)
            return self._call(local.over_windows, made, self._count) if _is_tensor(node) and has_samples(node) else made
        if _is_size(node) and not self.depends(first):
            return self._call(operator.mul, self.graph.call_method("size", (self.new(first), node.args[1])), self._count)
        if any(map(is_map, node.all_input_nodes)):
            return self._sum(node)
        return self.graph.node_copy(node, self.value)

    def depends(self, node: fx.Node) -> bool:
        """Whether a value is another one for windows: made of sums, or of sizes."""
        if node not in self._depends:
            leaf = _is_size(node) or is_told(node)
            self._depends[node] = leaf or any(is_map(x) or self.depends(x) for x in node.all_input_nodes)
        return self._depends[node]

    def _told(self, node: fx.Node) -> object:
        """A size of the map, or a number of samples, that the forward is told."""
        if not grows(node):
            return self._call(operator.mul, self.new(node), self._count)
        rows, columns = (self._call(local.capped, size, k) for size, k in zip(self._cover[0], self._window, strict=True))
        known = {(0,): rows, (1,): columns, (0, 1): self._call(operator.mul, rows, columns)}
        return known[told_sides(node, self.source)]

    def _length(self, x: fx.Node, dim: int) -> object:
        """A size of a map."""
        growing = growing_dims(x)
        if dim not in growing:
            size = self.graph.call_method("size", (self.operand(x).base, dim))
            return size if dim else self._call(operator.mul, size, self._count)
        outer, inner, _ = self._layout(x)
        sides = [self._call(local.capped, size, k) for size, k in zip(self._cover[0], self._window, strict=True)]
        if len(growing) == 2:
            return sides[growing.index(dim)]
        return self._call(operator.mul, self._call(operator.mul, *sides), outer * inner)

    def _sum(self, node: fx.Node) -> fx.Node:
        """What is made of maps, and is none."""
        name, source = name_of(node), input_of(node)
        if (equation := product(node)) and all(map(is_map, equation.operands)):
            return self._summing(equation)
        if source is None or not is_map(source) or not tensor_shapes(node):
            raise NotSums(f"{name} makes it of the map")
        if name in ("sum", "mean", "var", "std", *NORMS) and {*growing_dims(source)} <= {*(dims := reduced_dims(node, source))}:
            if name in ("sum", "mean"):
                return self._summing(reduction(node, source, squares(source) or (source,), dims), name == "mean")
            if name in ("var", "std"):
                equation, (correction, root) = reduction(node, source, (source,), dims), (correction_of(node), name == "std")
                return self._summing(equation, correction, root, function=local.window_variance)
            if order_of(node) in (None, 2, "fro") and (len(dims) == 1 or name == "norm" or name.endswith("vector_norm")):
                return self._summing(reduction(node, source, (source, source), dims), function=local.window_norm)
        pooled = statistic(node, self.pools)
        if pooled is None or pooled.kind not in ("mean", "sum") or pooled.over or len(pooled.sides) < 2:
            raise NotSums(f"{name} makes it of the map")
        equation = reduction(node, pooled.source, squares(pooled.source) or (pooled.source,), map_dims(pooled.source))
        return self._summing(equation, pooled.kind == "mean")

    def _summing(self, equation: Equation | None, *options: object, function: Callable = local.window_sums) -> fx.Node:
        if equation is None:
            raise NotSums("its sum is over other than pixels")
        pixels = self._pixels(equation, equation.operands)
        if {*pixels[0]} & {*equation.out} or not equation.out or any(x[0] != equation.out[0] for x in equation.inputs):
            raise NotSums("its sum is over samples, or not over all pixels")
        operands = [self._summed(x) for x in equation.operands]
        text = equation.text
        if function is local.window_sums:
            return self._call(function, text, pixels, operands, self._cover, equation.keep, *options)
        return self._call(function, text, pixels, operands[0], self._cover, equation.keep, *options)

    def _pixels(self, equation: Equation, maps: tuple[fx.Node, ...]) -> local.Pixels:
        found = set()
        for x in maps:
            labels = equation.inputs[equation.operands.index(x)]
            outer, inner, dims = self._layout(x)
            found.add(("".join(labels[dim] for dim in dims), outer, inner))
        if len(found) > 1:
            raise NotSums("its sum is of pixels that are elsewhere")
        return found.pop()

    def _layout(self, x: fx.Node) -> tuple[int, int, tuple[int, ...]]:
        """How many channels are outside and inside of the pixels, and the dimensions that these are in."""
        outer, inner, counts = pixels_of(x)
        if counts != pixels_of(self.source)[2]:
            raise NotSums("maps of several sizes are summed over")
        return outer, inner, growing_dims(x)

    def _summed(self, x: fx.Node) -> tuple:
        operand = self.operand(x)
        if operand.raw not in self.raws:
            self.raws.append(operand.raw)
        return operand.triple

    def operand(self, x: fx.Node) -> Operand:
        """A map, or several of them, as one that is there without sums, and what these add to it."""
        if x not in self._operands:
            self._operands[x] = self._moved(x) or self._normalised(x) or self._scaled(x) or self._raw(x)
        return self._operands[x]

    def _raw(self, x: fx.Node) -> Operand:
        return Operand(x, self.new(x))

    def _moved(self, x: fx.Node) -> Operand | None:
        """x.transpose(1, 2), x.view(...): the same is done to the scale and the shift, as to a map of one pixel."""
        maps = [y for y in x.all_input_nodes if is_map(y)]
        if name_of(x) not in LAYOUTS or len(maps) != 1:
            return None
        inner = self.operand(maps[0])
        if inner.is_raw:
            return None
        base = self.graph.node_copy(x, lambda y: inner.base if y is maps[0] else self.new(y))
        parts = [None if part is None else self._moved_pixel(x, maps[0], inner, part) for part in (inner.scale, inner.shift)]
        return Operand(inner.raw, base, *parts)

    def _moved_pixel(self, x: fx.Node, source: fx.Node, inner: Operand, part: fx.Node) -> fx.Node:
        if shapes := tensor_shapes(source):
            sizes = tuple(1 if dim in growing_dims(source) else size for dim, size in enumerate(shapes[0]))
            part = self._call(local.one_pixel, part, inner.base, self._count, sizes[1:])
        return self.graph.node_copy(x, lambda y: part if y is source else self._of_one_pixel(y))

    def _of_one_pixel(self, node: fx.Node) -> object:
        if node not in self._single:
            if not grows(node):
                self._single[node] = self.value(node)
            elif _is_size(node) or is_told(node):
                self._single[node] = 1
            else:
                self._single[node] = self.graph.node_copy(node, self._of_one_pixel)
        return self._single[node]

    def _normalised(self, x: fx.Node) -> Operand | None:
        source = input_of(x)
        if name_of(x) != "normalize" or source is None:
            return None
        options = dict(zip(("p", "dim", "eps", "out"), x.args[1:], strict=False)) | x.kwargs
        dims = positive_dims(options.get("dim", 1), source)
        if not {*growing_dims(source)} <= {*dims} or options.get("p", 2) != 2:
            return None
        inner = self.operand(source)
        labels = "".join(chr(ord("a") + dim) for dim in range(len(tensor_shapes(source)[0])))
        kept = "".join(label for dim, label in enumerate(labels) if dim not in dims)
        equation = Equation((source, source), (labels, labels), kept, dims)
        return self._times(inner, self._summing(equation, options.get("eps", 1e-12), function=local.window_norm))

    def _scaled(self, x: fx.Node) -> Operand | None:
        """x * y, x / y, x + y, x - y, where y is made of sums; where x is no map as it was, also other y."""
        name, args = name_of(x), x.args
        maps = [y for y in args if isinstance(y, fx.Node) and is_map(y)]
        known_name = name == "neg" or name in PRODUCTS | QUOTIENTS | DIFFERENCES | ADDITIONS
        if not known_name or len(maps) != 1 or x.kwargs or not tensor_shapes(maps[0]):
            return None
        source = maps[0]
        others = [y for y in args if y is not source]
        of_sums = [y for y in others if isinstance(y, fx.Node) and self.depends(y)]
        if any(not self._is_plain(y) for y in of_sums):
            return None
        inner = self.operand(source)
        if inner.is_raw and not of_sums:
            return None
        if name == "neg":
            return self._times(inner, self._tensor(-1, inner))
        other = self._tensor(self.value(others[0]), inner, others[0])
        if name in PRODUCTS:
            return self._times(inner, other)
        if name in QUOTIENTS:
            return self._times(inner, self._call(torch.reciprocal, other)) if args[0] is source else None
        if name in DIFFERENCES and args[0] is not source:
            inner = self._times(inner, self._tensor(-1, inner))
        elif name in DIFFERENCES:
            other = self._call(operator.neg, other)
        return replace(inner, shift=other if inner.shift is None else self._call(operator.add, inner.shift, other))

    def _times(self, x: Operand, factor: fx.Node) -> Operand:
        scale = factor if x.scale is None else self._call(operator.mul, x.scale, factor)
        return replace(x, scale=scale, shift=None if x.shift is None else self._call(operator.mul, x.shift, factor))

    def _tensor(self, value: object, x: Operand, node: object = None) -> fx.Node:
        """Numbers as tensors."""
        if isinstance(node, fx.Node) and _is_tensor(node):
            return value
        return self._call(local.constant, value, x.base)

    def _is_plain(self, node: fx.Node) -> bool:
        """Whether nothing learned is in between: what a gate makes of a mean is for each position by itself."""
        if any(map(is_map, node.all_input_nodes)):
            return True
        learned = node.op == "call_module" or name_of(node) in _LEARNED
        return not learned and all(self._is_plain(x) for x in node.all_input_nodes if self.depends(x))

    def _call(self, function: Callable, *args: object) -> fx.Node:
        return self.graph.call_function(function, args)


def _is_size(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "size"


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta["values"][0], Tensor)

"""Means, sums, maxima, norms, variances and standard deviations of a map over its rows and columns."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.statistics import local_statistic
from basicsr.tlc.rewriting.patterns.pooling import Pooling
from basicsr.tlc.rewriting.patterns.reading import input_of, name_of
from basicsr.tlc.rewriting.trace import map_dims, tensor_shapes

_STATISTICS = {
    "mean": "mean",
    "adaptive_avg_pool2d": "mean",
    "avg_pool2d": "mean",
    "sum": "sum",
    "amax": "max",
    "adaptive_max_pool2d": "max",
    "max_pool2d": "max",
    "var": "var",
    "std": "std",
    "norm": "norm",
    "linalg_norm": "norm",
    "linalg_vector_norm": "norm",
}
_RESHAPES = {"flatten", "view", "reshape"}


@dataclass(frozen=True)
class Statistic(Pooling):
    """A mean, sum, maximum, norm, variance or standard deviation of `source` over its rows and columns, or over one of them."""

    kind: str
    correction: float | None = None

    @property
    def before(self) -> str:
        return name_of(self.node)

    @property
    def after(self) -> str:
        strip = {(0,): " of columns", (1,): " of rows"}.get(self.sides, "")
        return f"local {self.kind}{strip}"

    @property
    def fast(self) -> bool:
        return self.kind != "max" and len(self.sides) == 2

    @cached_property
    def sides(self) -> tuple[int, ...]:
        return strip_sides(self.node, self.source) or (0, 1)

    @property
    def inputs(self) -> list[fx.Node]:
        return [self.source]

    def emit(
        self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None, padded: bool = True
    ) -> fx.Node:
        window = tuple(k if side in self.sides else 1 for side, k in enumerate(window))
        args = (new(self.source), self.kind, map_dims(self.source), window, max_stride, self.correction, padded)
        return graph.call_function(local_statistic, args)


def statistic(node: fx.Node, pools: set[str]) -> Statistic | None:
    if node.op == "call_module" and node.target in pools:
        kind = "max" if name_of(node) == "AdaptiveMaxPool2d" else "mean"
        return Statistic(node, node.args[0], kind) if node.args and map_dims(node.args[0]) else None
    if tensor_shapes(node) is None:
        return None
    if name_of(node) in ("truediv", "div", "true_divide"):
        return _mean_of_sum(node, pools)
    kind, source = _kind(node), _source(node)
    if kind is None or source is None or not _reduces(node, source):
        return None
    if kind == "mean" and (centred := _squared_deviation(source, pools)):
        return Statistic(node, centred, "var", 0)
    return Statistic(node, source, kind, _correction(node) if kind in ("var", "std") else None)


def _kind(node: fx.Node) -> str | None:
    if name_of(node) != "reduce":
        return _STATISTICS.get(name_of(node))
    reduction = node.args[2] if len(node.args) > 2 else node.kwargs.get("reduction")  # of einops, which says it in a word
    return reduction if reduction in ("mean", "sum", "max") else None


def _source(node: fx.Node) -> fx.Node | None:
    """The map that is reduced: directly, flattened before, or one dimension after the other."""
    source = input_of(node)
    if source is None or map_dims(source):
        return source
    inner = input_of(source)
    if inner is None or not map_dims(inner):
        return None
    if name_of(source) in _RESHAPES:
        return inner if _is_flattened(source, inner) else None
    return inner if name_of(source) == name_of(node) in ("mean", "sum") else None


def _is_flattened(node: fx.Node, source: fx.Node) -> bool:
    """Whether `node` is the map `source`, its rows and columns flattened."""
    first, second = map_dims(source)
    shapes = tensor_shapes(node)
    if shapes is None or second != first + 1:
        return False
    flat = [(*s[:first], s[first] * s[second], *s[second + 1 :]) for s in tensor_shapes(source)]
    return list(shapes) == flat


def strip_sides(node: fx.Node, source: fx.Node) -> tuple[int, ...]:
    """(1,) where `node` has a single column of the map, (0,) where it has a single row; else ()."""
    for side, dim in enumerate(map_dims(source)):
        kept = [[*s[:dim], 1, *s[dim + 1 :]] for s in tensor_shapes(source)]
        dropped = [[*s[:dim], *s[dim + 1 :]] for s in tensor_shapes(source)]
        if [list(shape) for shape in tensor_shapes(node)] in (kept, dropped):
            return (side,)
    return ()


def _reduces(node: fx.Node, source: fx.Node) -> bool:
    """Whether `node` has all dimensions of the map but rows and columns, or but one of these."""
    if strip_sides(node, source):
        return True
    dims, (small, large) = map_dims(source), tensor_shapes(node)
    if small != large:
        return False
    kept = [size for dim, size in enumerate(tensor_shapes(source)[0]) if dim not in dims and size > 1]
    return [size for size in tensor_shapes(node)[0] if size > 1] == kept


def _mean_of_sum(node: fx.Node, pools: set[str]) -> Statistic | None:
    """x.sum((2, 3)) / (h * w), or / (h * w - 1) where x is a squared deviation"""
    if len(node.args) != 2 or not isinstance(node.args[0], fx.Node):
        return None
    total = statistic(node.args[0], pools)
    if (
        total is None
        or total.kind != "sum"
        or len(total.sides) < 2
        or not isinstance(node.args[1], fx.Node)
        or tensor_shapes(node.args[1])
    ):
        return None
    pixels = [math.prod(shape[dim] for dim in map_dims(total.source)) for shape in tensor_shapes(total.source)]
    correction = {pixels[i] - value for i, value in enumerate(node.args[1].meta["values"])}
    if centred := _squared_deviation(total.source, pools):
        return Statistic(node, centred, "var", correction.pop()) if correction in ({0}, {1}) else None
    return Statistic(node, total.source, "mean") if correction == {0} else None


def _squared_deviation(node: fx.Node, pools: set[str]) -> fx.Node | None:
    """x of (x - x.mean((2, 3))) ** 2"""
    name = name_of(node)
    twice = name == "mul" and len(node.args) == 2 and node.args[0] is node.args[1]
    if not twice and name != "square" and not (name == "pow" and len(node.args) == 2 and node.args[1] == 2):
        return None
    difference = node.args[0]
    if not isinstance(difference, fx.Node) or name_of(difference) != "sub" or len(difference.args) != 2:
        return None
    x, mean = difference.args
    if not isinstance(x, fx.Node) or not isinstance(mean, fx.Node):
        return None
    found = statistic(mean, pools)
    return x if found and found.kind == "mean" and found.source is x and len(found.sides) == 2 else None


def _correction(node: fx.Node) -> float:
    """torch.var(x, dim, unbiased) or torch.var(x, dim, correction=...)."""
    if "correction" in node.kwargs:
        return node.kwargs["correction"]
    unbiased = node.args[2] if len(node.args) > 2 else node.kwargs.get("unbiased", True)
    return 1 if unbiased else 0

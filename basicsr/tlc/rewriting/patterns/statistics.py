"""Means, sums, maxima, minima, norms, variances and standard deviations of a map over its rows and columns."""

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
    "adaptive_avg_pool1d": "mean",
    "adaptive_avg_pool2d": "mean",
    "avg_pool1d": "mean",
    "avg_pool2d": "mean",
    "sum": "sum",
    "amax": "max",
    "amin": "min",
    "adaptive_max_pool1d": "max",
    "adaptive_max_pool2d": "max",
    "max_pool1d": "max",
    "max_pool2d": "max",
    "var": "var",
    "std": "std",
    "norm": "norm",
    "linalg_norm": "norm",
    "linalg_vector_norm": "norm",
}
_RESHAPES = {"flatten", "view", "reshape", "rearrange", "Flatten"}
_SHAPED = {"unsqueeze", "squeeze", "getitem", "expand", "expand_as"}
_DIM = {"norm": 2, "linalg_norm": 2, "linalg_vector_norm": 2}  # which argument says what is reduced, where it is not the second


@dataclass(frozen=True)
class Statistic(Pooling):
    """A mean, sum, maximum, minimum, norm, variance or standard deviation of `source` over its rows, its columns, or both.

    Attributes:
        channels: the sizes that the dimensions between batch and pixels are taken as, where these are the last.
        over: the dimensions that are reduced, too, such as channels; after that.
    """

    kind: str
    correction: float | None = None
    channels: tuple[int, ...] | None = None
    over: tuple[int, ...] = ()

    @property
    def before(self) -> str:
        return name_of(self.node)

    @property
    def after(self) -> str:
        strip = {(0,): " of columns", (1,): " of rows"}.get(self.sides, "")
        return f"local {self.kind}{strip}"

    @property
    def fast(self) -> bool:
        return self.kind not in ("max", "min") and len(self.sides) == 2

    @property
    def positions(self) -> tuple[int, ...]:
        return super().positions if self.channels is None else (len(self.channels) + 1, len(self.channels) + 2)

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
        further = (self.channels, self.over) if self.over else ()
        return graph.call_function(local_statistic, (*args, *further))


def statistic(node: fx.Node, pools: set[str]) -> Statistic | None:
    if node.op == "call_module" and node.target in pools:
        kind, source = "max" if "Max" in name_of(node) else "mean", _source(node)
        return Statistic(node, source, kind) if source is not None and map_dims(source) else None
    if tensor_shapes(node) is None:
        return None
    if name_of(node) in ("truediv", "div", "true_divide"):
        return _mean_of_sum(node, pools)
    kind, source = _kind(node), _source(node)
    reduced = _reduced(node, source) if kind and source else None
    if reduced is None:
        return None
    if kind == "mean" and (variance := _variance_of(node, source, reduced, pools, 0)):
        return variance
    return Statistic(node, source, kind, correction_of(node) if kind in ("var", "std") else None, *reduced)


def _kind(node: fx.Node) -> str | None:
    if pair := _pair(node):
        return pair[1]
    if name_of(node) != "reduce":
        return _STATISTICS.get(name_of(node))
    reduction = node.args[2] if len(node.args) > 2 else node.kwargs.get("reduction")  # of einops, which says it in a word
    return reduction if reduction in ("mean", "sum", "max", "min") else None


def _source(node: fx.Node) -> fx.Node | None:
    """The map that is reduced: directly, flattened before, or one dimension after the other."""
    source = input_of(_pair(node)[0] if _pair(node) else node)
    if source is None or map_dims(source):
        return source
    inner = input_of(source)
    if inner is None or not map_dims(inner):
        return None
    if name_of(source) in _RESHAPES:
        return inner if _is_flattened(source, inner) or _flattened_channels(source, inner) else None
    return inner if name_of(source) == name_of(node) in ("mean", "sum", "amax", "amin") else None


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


def _reduced(node: fx.Node, source: fx.Node) -> tuple[tuple[int, ...] | None, tuple[int, ...]] | None:
    """`channels` and `over` of the Statistic, where `node` has all dimensions of the map but rows and columns, or but one of
    these; or has none of some others, either."""
    if strip_sides(node, source):
        return None, ()
    (small, large), dims = tensor_shapes(node), map_dims(source)
    if small != large:
        return None
    kept = [size for dim, size in enumerate(tensor_shapes(source)[0]) if dim not in dims and size > 1]
    if [size for size in small if size > 1] == kept:
        return None, ()
    reduction = _pair(node)[0] if _pair(node) else node
    given, over = input_of(reduction), _dims(reduction)
    if given is source:
        over = _told_by_shape(node, source) if name_of(node) == "reduce" else over
        over -= {*dims} if {*dims} <= over else over
        return (None, tuple(sorted(over))) if over and 0 not in over else None
    if (channels := _flattened_channels(given, source)) and 0 not in over and len(channels) in over:
        return channels, tuple(sorted(over))
    return None


def _told_by_shape(node: fx.Node, source: fx.Node) -> set[int]:
    """The dimensions of a map that a node does not have, taken in order."""
    left = [size for size in tensor_shapes(node)[0] if size > 1]
    over = set()
    for dim, size in enumerate(tensor_shapes(source)[0]):
        if dim and dim not in map_dims(source) and left[:1] == [size]:
            left.pop(0)
        elif dim:
            over.add(dim)
    return over


def _dims(node: fx.Node) -> set[int]:
    """Those that a reduction is told; none where it reduces all."""
    place = _DIM.get(name_of(node), 1)
    dims = node.kwargs.get("dim", node.args[place] if len(node.args) > place else None)
    dims = [dims] if isinstance(dims, int) and not isinstance(dims, bool) else dims
    ndim = len(tensor_shapes(input_of(node))[0])
    return {dim % ndim for dim in dims} if isinstance(dims, (tuple, list)) else set()


def _flattened_channels(node: fx.Node, source: fx.Node) -> tuple[int, ...] | None:
    """What `channels` are where `node` is the map `source` with pixels and some of its channels as one dimension, the last."""
    shapes, maps = tensor_shapes(node), tensor_shapes(source)
    if shapes is None or map_dims(source) != (len(maps[0]) - 2, len(maps[0]) - 1) or len(shapes[0]) < 2:
        return None
    counts = {
        (s[0], *s[1:-1], s[-1] // math.prod(m[-2:]), s[-1] % math.prod(m[-2:])) for s, m in zip(shapes, maps, strict=True)
    }
    (n, *channels, rest), *others = counts
    if others or rest or n != maps[0][0] or math.prod(channels) != math.prod(maps[0][1:-2]):
        return None
    return tuple(channels)


def _pair(node: fx.Node) -> tuple[fx.Node, str] | None:
    """torch.var_mean(...) or std_mean of node `torch.var_mean(...)[i]`, and which of both it is; x.max(1) of x.max(1)[0]."""
    first = input_of(node)
    if name_of(first) in ("max", "min") and (name_of(node), *node.args[1:]) in (("getitem", 0), ("getattr", "values")):
        return first, name_of(first)
    if name_of(node) != "getitem" or name_of(first) not in ("var_mean", "std_mean"):
        return None
    return first, name_of(first).split("_")[node.args[1]]


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
    pixels = [_pixels(total, shape) for shape in tensor_shapes(total.source)]
    correction = {pixels[i] - value for i, value in enumerate(node.args[1].meta["values"])}
    reduced = total.channels, total.over
    if correction in ({0}, {1}) and (variance := _variance_of(node, total.source, reduced, pools, *correction)):
        return variance
    return Statistic(node, total.source, "mean", None, *reduced) if correction == {0} else None


def _pixels(total: Statistic, shape: tuple[int, ...]) -> int:
    """How many elements of a map are one of a sum over it."""
    sizes = shape if total.channels is None else (shape[0], *total.channels, *shape[-2:])
    return math.prod(sizes[dim] for dim in (*total.positions, *total.over))


def _variance_of(node: fx.Node, squares: fx.Node, reduced: tuple, pools: set[str], correction: float) -> Statistic | None:
    """Where `node` is the mean of (x - x.mean(...)) ** 2, also over channels first and then over pixels."""
    channels, over = reduced
    along = _dims(squares) if name_of(squares) == "mean" else set()
    if along and not over and len(tensor_shapes(squares)[0]) == len(tensor_shapes(input_of(squares))[0]):
        squares, over = input_of(squares), tuple(sorted(along))
    x = _squared_deviation(squares, pools)
    return x and Statistic(node, x, "var", correction, channels, over)


def _squared_deviation(node: fx.Node, pools: set[str]) -> fx.Node | None:
    """x of (x - m) ** 2, where m is made of means of x: whether it is the mean of the same pixels and channels is found by
    `exact`."""
    name = name_of(node)
    twice = name == "mul" and len(node.args) == 2 and node.args[0] is node.args[1]
    if not twice and name != "square" and not (name == "pow" and len(node.args) == 2 and node.args[1] == 2):
        return None
    difference = node.args[0]
    if not isinstance(difference, fx.Node) or name_of(difference) != "sub" or len(difference.args) != 2:
        return None
    x, mean = difference.args
    if not isinstance(x, fx.Node) or not isinstance(mean, fx.Node) or not map_dims(x):
        return None
    while name_of(mean) in _RESHAPES | _SHAPED:
        mean = input_of(mean)
    found = None if mean is None or mean is x else statistic(mean, pools)
    if found is None or found.kind != "mean" or len(found.sides) < 2:
        return None
    return x if x in (found.source, input_of(found.source)) else None


def correction_of(node: fx.Node) -> float:
    """torch.var(x, dim, unbiased) or torch.var(x, dim, correction=...)."""
    node = _pair(node)[0] if _pair(node) else node
    if "correction" in node.kwargs:
        return node.kwargs["correction"]
    unbiased = node.args[2] if len(node.args) > 2 else node.kwargs.get("unbiased", True)
    return 1 if unbiased else 0

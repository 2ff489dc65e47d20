"""The global operations in a traced forward that have a local form.

What is recognised here is a proposal: `exact` compares its local form with the module's own operations on single windows.
"""

import inspect
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import fx

from basicsr.tlc.local import Size
from basicsr.tlc.local.functional import local_group_norm, local_instance_norm
from basicsr.tlc.local.statistics import local_statistic, local_token_attention
from basicsr.tlc.rewriting.trace import grows, map_dims, tensor_shapes

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
class Statistic:
    """A mean, sum, maximum, norm, variance or standard deviation of `source` over its rows and columns."""

    node: fx.Node
    source: fx.Node
    kind: str
    correction: float | None = None

    @property
    def before(self) -> str:
        return _name(self.node)

    @property
    def after(self) -> str:
        return f"local {self.kind}"

    @property
    def fast(self) -> bool:
        return self.kind != "max"

    @property
    def inputs(self) -> list[fx.Node]:
        return [self.source]

    def emit(
        self, graph: fx.Graph, new: Callable[[object], object], window: Size, max_stride: Size | None, padded: bool = True
    ) -> fx.Node:
        args = (new(self.source), self.kind, map_dims(self.source), window, max_stride, self.correction, padded)
        return graph.call_function(local_statistic, args)


@dataclass(frozen=True)
class Norm:
    """F.instance_norm or F.group_norm of `source`, (N, C, H, W)."""

    node: fx.Node
    source: fx.Node
    options: dict[str, object]  # num_groups, weight, bias, eps

    fast = True

    @property
    def before(self) -> str:
        return _name(self.node)

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


Pattern = Statistic | Norm | TokenAttention


def find(graph: fx.Graph, pools: set[str], blended: bool = False) -> dict[fx.Node, Pattern]:
    """The recognised operations, by the node whose value they are. `pools`: names of global pooling modules inside; `blended`:
    how windows of attention are to be."""
    found = {}
    for node in graph.nodes:
        if "values" in node.meta and (pattern := _statistic(node, pools) or _norm(node) or _attention(node, blended)):
            found[node] = pattern
    return found


def _statistic(node: fx.Node, pools: set[str]) -> Statistic | None:
    if node.op == "call_module" and node.target in pools:
        kind = "max" if _name(node) == "AdaptiveMaxPool2d" else "mean"
        return Statistic(node, node.args[0], kind) if node.args and map_dims(node.args[0]) else None
    shapes = tensor_shapes(node)
    if shapes is None or shapes[0] != shapes[1]:
        return None
    if _name(node) in ("truediv", "div", "true_divide"):
        return _mean_of_sum(node, pools)
    kind, source = _kind(node), _source(node)
    if kind is None or source is None or not _reduces(node, source):
        return None
    if kind == "mean" and (centred := _squared_deviation(source, pools)):
        return Statistic(node, centred, "var", 0)
    return Statistic(node, source, kind, _correction(node) if kind in ("var", "std") else None)


def _kind(node: fx.Node) -> str | None:
    if _name(node) != "reduce":
        return _STATISTICS.get(_name(node))
    reduction = node.args[2] if len(node.args) > 2 else node.kwargs.get("reduction")  # of einops, which says it in a word
    return reduction if reduction in ("mean", "sum", "max") else None


def _source(node: fx.Node) -> fx.Node | None:
    """The map that is reduced: directly, flattened before, or one dimension after the other."""
    source = _input(node)
    if source is None or map_dims(source):
        return source
    inner = _input(source)
    if inner is None or not map_dims(inner):
        return None
    if _name(source) in _RESHAPES:
        return inner if _is_flattened(source, inner) else None
    return inner if _name(source) == _name(node) in ("mean", "sum") else None


def _is_flattened(node: fx.Node, source: fx.Node) -> bool:
    """Whether `node` is the map `source`, its rows and columns flattened."""
    first, second = map_dims(source)
    shapes = tensor_shapes(node)
    if shapes is None or second != first + 1:
        return False
    flat = [(*s[:first], s[first] * s[second], *s[second + 1 :]) for s in tensor_shapes(source)]
    return list(shapes) == flat


def _reduces(node: fx.Node, source: fx.Node) -> bool:
    """Whether `node` has all dimensions of the map but rows and columns."""
    dims = map_dims(source)
    kept = [size for dim, size in enumerate(tensor_shapes(source)[0]) if dim not in dims and size > 1]
    return [size for size in tensor_shapes(node)[0] if size > 1] == kept


def _mean_of_sum(node: fx.Node, pools: set[str]) -> Statistic | None:
    """x.sum((2, 3)) / (h * w), or / (h * w - 1) where x is a squared deviation"""
    if len(node.args) != 2 or not isinstance(node.args[0], fx.Node):
        return None
    total = _statistic(node.args[0], pools)
    if total is None or total.kind != "sum" or not isinstance(node.args[1], fx.Node) or tensor_shapes(node.args[1]):
        return None
    pixels = [math.prod(shape[dim] for dim in map_dims(total.source)) for shape in tensor_shapes(total.source)]
    correction = {pixels[i] - value for i, value in enumerate(node.args[1].meta["values"])}
    if centred := _squared_deviation(total.source, pools):
        return Statistic(node, centred, "var", correction.pop()) if correction in ({0}, {1}) else None
    return Statistic(node, total.source, "mean") if correction == {0} else None


def _squared_deviation(node: fx.Node, pools: set[str]) -> fx.Node | None:
    """x of (x - x.mean((2, 3))) ** 2"""
    name = _name(node)
    twice = name == "mul" and len(node.args) == 2 and node.args[0] is node.args[1]
    if not twice and name != "square" and not (name == "pow" and len(node.args) == 2 and node.args[1] == 2):
        return None
    difference = node.args[0]
    if not isinstance(difference, fx.Node) or _name(difference) != "sub" or len(difference.args) != 2:
        return None
    x, mean = difference.args
    if not isinstance(x, fx.Node) or not isinstance(mean, fx.Node):
        return None
    statistic = _statistic(mean, pools)
    return x if statistic and statistic.kind == "mean" and statistic.source is x else None


def _correction(node: fx.Node) -> float:
    """torch.var(x, dim, unbiased) or torch.var(x, dim, correction=...)."""
    if "correction" in node.kwargs:
        return node.kwargs["correction"]
    unbiased = node.args[2] if len(node.args) > 2 else node.kwargs.get("unbiased", True)
    return 1 if unbiased else 0


def _norm(node: fx.Node) -> Norm | None:
    functions = {"instance_norm": F.instance_norm, "group_norm": F.group_norm}
    function = functions.get(_name(node)) if node.op == "call_function" else None
    if function is None or map_dims(_input(node)) != (2, 3):
        return None
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    if not bound.arguments.get("use_input_stats", True):
        return None
    names = ("num_groups", "weight", "bias", "eps")
    return Norm(node, _input(node), {name: bound.arguments[name] for name in names if name in bound.arguments})


def _attention(node: fx.Node, blended: bool) -> TokenAttention | None:
    product = _product(node)
    if product is None:
        return None
    matrix, v = product
    matrix = _unwrapped(matrix)
    if _name(matrix) not in ("softmax", "Softmax"):
        return None
    inside, scales = _unscaled(_input(matrix))
    product = _product(inside) if inside is not None else None
    if product is None:
        return None
    (q, q_scales), (k, k_scales) = _unscaled(product[0]), _unscaled(_untransposed(product[1]))
    if _name(q) != "normalize" or _name(k) != "normalize":
        return None
    q, k = _input(q), _input(k)
    tokens = [tensor_shapes(x) for x in (q, k, v)]
    source = None if None in tokens else _map_with_pixels(node, tuple(shape[-1] for shape in tokens[0]))
    if source is None or any(len(x[0]) not in (3, 4) or x[0][-1] != tokens[0][0][-1] for x in tokens):
        return None
    return TokenAttention(node, source, q, k, v, (*scales, *q_scales, *k_scales), blended)


def _map_with_pixels(node: fx.Node, pixels: tuple[int, int]) -> fx.Node | None:
    """The nearest map before `node` with that many pixels, at both sizes, its rows right before its columns."""
    queue = [node]
    for candidate in queue:
        dims = map_dims(candidate)
        if dims and tuple(math.prod(shape[dim] for dim in dims) for shape in tensor_shapes(candidate)) == pixels:
            return candidate
        queue += [other for other in candidate.all_input_nodes if other not in queue]
    return None


def _product(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    if _name(node) not in ("matmul", "bmm", "__matmul__") or len(node.args) != 2:
        return None
    return node.args if all(isinstance(x, fx.Node) for x in node.args) else None


def _unwrapped(node: fx.Node) -> fx.Node:
    """What dropout is given, which does nothing at test time."""
    while _name(node).lower() in ("dropout", "identity") and _input(node) is not None:
        node = _input(node)
    return node


def _unscaled(node: fx.Node | None) -> tuple[fx.Node | None, tuple[tuple[bool, object], ...]]:
    """x of x * a / b, and a, b: numbers and tensors that do not depend on the image's size."""
    scales = ()
    while node is not None and _name(node) in ("mul", "truediv", "div") and len(node.args) == 2:
        divides = _name(node) != "mul"
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


def _untransposed(node: fx.Node) -> fx.Node | None:
    """x of x.transpose(-2, -1), .mT, .permute(0, 1, 3, 2)."""
    if _name(node) == "transpose" and {dim % node.meta["values"][0].ndim for dim in node.args[1:]} == _last_two(node):
        return _input(node)
    if _name(node) == "getattr" and node.args[1] == "mT":
        return _input(node)
    dims = node.args[1] if len(node.args) == 2 else node.args[1:]
    ndim = node.meta["values"][0].ndim if tensor_shapes(node) else 0
    if _name(node) == "permute" and tuple(dims) == (*range(ndim - 2), ndim - 1, ndim - 2):
        return _input(node)
    return None


def _last_two(node: fx.Node) -> set[int]:
    ndim = node.meta["values"][0].ndim
    return {ndim - 2, ndim - 1}


def _input(node: fx.Node | None) -> fx.Node | None:
    if node is None:
        return None
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None


def _name(node: fx.Node | None) -> str:
    return "" if node is None else node.meta.get("name", "")

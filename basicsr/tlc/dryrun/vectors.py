"""What a net makes of the 1x1 outputs of its modules: whether the map that a local module hands out could take their place.

It can where each position is treated by itself, as a 1x1 convolution does. Only operations that are known to do so count.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from basicsr.tlc.dryrun.axes import Axis, agree, along, axis_of, is_placed, known, layout_of, misplaced, place, same
from basicsr.tlc.dryrun.calls import Call, first_map
from basicsr.tlc.dryrun.shapes import argument, tensors_in, worked_dims
from basicsr.tlc.local import Size

_RESHAPES = {"view", "_unsafe_view", "_reshape_alias", "squeeze", "select"}
_ALIKE = {"detach", "alias", "_to_copy", "_prelu_kernel", "hardswish", "log_sigmoid_forward"}  # pointwise, but not tagged so
_ALIKE |= {"hardsigmoid", "mish", "softplus", "elu", "leaky_relu", "hardtanh", "celu", "threshold"}  # in older PyTorch
_MEETS = {"cat", "stack", "copy"}
_ELSEWHERE = (
    "its 1x1 output meets a map whose pixels are elsewhere than those of the map that it was made of: one of both was flipped, "
    "shifted or transformed; let them meet before"
)
_RETURNED = "its 1x1 output meets a map, and is what the net returns, too; let the net return the map alone"
# With a `dim` other than rows and columns.
_ALONG = {"mean", "sum", "amax", "amin", "var", "std", "prod", "max", "min", "linalg_vector_norm", "norm", "glu", "cumsum"}
_ALONG |= {"_softmax", "_log_softmax", "logsumexp", "split", "split_with_sizes", "unsafe_split", "slice", "unbind", "flip"}


class Vector(NamedTuple):
    """A tensor made of 1x1 outputs.

    Attributes:
        tensor: kept, so that its id stays its own.
        modules: whose outputs they are.
        frame: rows and columns of the map that they were made of.
        dims: those that would be the rows and columns of a map in its place, counted from the end.
    """

    tensor: Tensor
    modules: frozenset[nn.Module]
    frame: tuple[Axis | None, Axis | None]
    dims: Size = (-2, -1)


class Vectors:
    """What is made of modules' 1x1 outputs in a run; `unfit`: the modules that cannot hand out a map instead, and why.

    Args:
        calls: the modules' arguments, which the run adds to. ruled: the modules that have a rule.
    """

    def __init__(self, calls: dict[nn.Module, list[Call]], ruled: set[nn.Module]) -> None:
        self.unfit: dict[nn.Module, str] = {}
        self._calls, self._ruled = calls, ruled
        self._known: dict[int, Vector] = {}  # by id
        self._met: set[nn.Module] = set()  # those whose outputs have met a map
        self._spread: dict[int, Vector] = {}  # those that were repeated for every pixel

    def entered(self, module: nn.Module) -> None:
        """A module with a rule is given its arguments: whether these are a map of the image."""
        x = first_map(self._calls[module][-1])
        frame = _frame(x)
        if all(frame) and (reason := misplaced(*frame)):
            self._is_unfit([module], reason)

    def returned(self, module: nn.Module, output: Tensor) -> None:
        """A module hands out (..., 1, 1)."""
        vector, x = self._known.get(id(output)), first_map(self._calls[module][-1])
        if vector is None and x is not None and x.shape[-2:] != (1, 1):
            vector = Vector(output, frozenset(), _frame(x))
        if vector is not None:
            self._known[id(output)] = vector._replace(modules=vector.modules | {module})

    def handed_out(self, x: Tensor, reason: str) -> None:
        modules = self._known[id(x)].modules if id(x) in self._known else frozenset()
        self._is_unfit(modules & self._met, _RETURNED)
        self._is_unfit(modules, reason)

    def follow(self, function, args: tuple, kwargs: dict, out: object) -> None:
        """What becomes of them: a map must fit in their place, each position by itself."""
        inputs = tensors_in(args)
        vectors = [self._known[id(x)] for x in inputs if id(x) in self._known]
        spread = [self._spread[id(x)] for x in inputs if id(x) in self._spread]
        if spread:
            self._follow_spread(function, inputs, out, spread)
        if not vectors or function.overloadpacket.__name__.startswith("new_"):
            return
        modules = frozenset().union(*(vector.modules for vector in vectors))
        dims, frame = followed(function, args, kwargs, out, vectors), vectors[0].frame
        if isinstance(dims, str):
            self._is_unfit(modules, dims)
            return
        dims = dims or (-2, -1)
        for part in tensors_in((out,)):
            if part.ndim < -min(dims):  # statistics that a batch norm hands out
                continue
            size = tuple(part.shape[dim] for dim in dims)
            if size == (1, 1):
                sizes = [self._ruled_sizes(vector.modules) for vector in vectors]
                strangers = modules if len(sizes) > 1 and all(sizes) and not set.intersection(*sizes) else ()
                self._known[id(part)] = Vector(part, modules, frame, dims)
            else:
                strangers = [module for module in modules if size not in self._map_sizes(module)]
            self._is_unfit(strangers, "its 1x1 output meets a map of another size than its own; resize that map before")
            if not all(_alike(vector.frame, frame) for vector in vectors):
                self._is_elsewhere(modules)
            if size != (1, 1):
                self._meet(Vector(part, modules, frame, dims))

    def _meet(self, vector: Vector) -> None:
        """A map that a vector is part of, or nothing else than the vector, repeated."""
        self._met |= vector.modules
        layout = [*known(vector.tensor)]
        axes = tuple(axis_of(layout[dim]) for dim in vector.dims)
        if axes != (None, None):
            if not _alike(axes, vector.frame):
                self._is_elsewhere(vector.modules)
            return
        for dim, axis in zip(vector.dims, vector.frame, strict=True):
            layout[dim] = along(vector.tensor.shape[dim], axis)
        place(vector.tensor, tuple(layout))
        self._spread[id(vector.tensor)] = vector

    def _follow_spread(self, function, inputs: list[Tensor], out: object, spread: list[Vector]) -> None:
        """It meets maps by index, whose pixels must be where its own are."""
        modules = frozenset().union(*(vector.modules for vector in spread))
        placed = [x for x in inputs if layout_of(x) is not None and any(map(is_placed, layout_of(x)))]
        name = function.overloadpacket.__name__.removesuffix("_")
        meets = torch.Tag.pointwise in function.tags or name in _MEETS
        if not placed:
            return
        first, *others = placed
        if not (meets and all(agree(a, b) for x in others for a, b in zip(known(first)[::-1], known(x)[::-1], strict=False))):
            self._is_elsewhere(modules if others else ())
        if len(placed) == len(spread):
            for part in tensors_in((out,)):
                self._spread[id(part)] = Vector(part, modules, spread[0].frame)

    def _is_unfit(self, modules: Iterable[nn.Module], reason: str) -> None:
        for module in modules:
            self.unfit.setdefault(module, reason)

    def _is_elsewhere(self, modules: Iterable[nn.Module]) -> None:
        """Those that see maps of several sizes have no window anyway."""
        self._is_unfit([module for module in modules if len(self._map_sizes(module)) == 1], _ELSEWHERE)

    def _ruled_sizes(self, modules: Iterable[nn.Module]) -> set[tuple[int, ...]]:
        return set().union(*(self._map_sizes(module) for module in modules if module in self._ruled))

    def _map_sizes(self, module: nn.Module) -> set[tuple[int, ...]]:
        """(h, w) of the maps that a module was given."""
        maps = map(first_map, self._calls[module])
        return {tuple(x.shape[-2:]) for x in maps if x is not None}


def _frame(x: Tensor | None) -> tuple[Axis | None, Axis | None]:
    return (None, None) if x is None else tuple(map(axis_of, known(x)[-2:]))


def _alike(a: tuple, b: tuple) -> bool:
    return all(None not in pair and same(*pair) for pair in zip(a, b, strict=True))


def followed(function, args: tuple, kwargs: dict, out: object, vectors: Sequence[Vector]) -> Size | str | None:
    """The dims of what an operation makes of vectors, or why a map in their place would not do. None: it makes a map of them.

    Args:
        vectors: those among `args`.
    """
    name, dims = function.overloadpacket.__name__.removesuffix("_"), vectors[0].dims
    if any(vector.dims != dims for vector in vectors):
        return "its 1x1 output meets another one in another layout; keep them in one layout"
    first, inputs = args[0] is vectors[0].tensor, tensors_in(args)
    worked = [dim - inputs[0].ndim for dim in worked_dims(function, args, kwargs)]
    if torch.Tag.pointwise in function.tags or name in _ALIKE or name.endswith("_like"):
        return dims
    if name in _RESHAPES and first:
        return "the net reshapes its 1x1 output to a vector; use 1x1 convolutions instead of nn.Linear after it"
    if name == "convolution" and first and len(vectors) == 1:
        kernel, stride, padding = args[1].shape[2:], args[3], args[4]
        if kernel.numel() > 1:
            return "a convolution larger than 1x1 follows on its 1x1 output, and would mix positions; use a 1x1 convolution"
        if dims == (-2, -1) and {*stride} == {1} and {*padding} == {0}:
            return dims
    if name == "native_batch_norm" and first and not args[5]:  # args[5]: training
        return dims
    if name in ("permute", "transpose"):
        order = list(range(out.ndim))
        if name == "permute":
            order = [dim % out.ndim for dim in args[1]]
        else:
            a, b = args[1], args[2]
            order[a], order[b] = order[b], order[a]
        return tuple(order.index(dim % out.ndim) - out.ndim for dim in dims)
    if name == "expand":
        return dims
    if name == "repeat" and len(args[1]) == inputs[0].ndim and all(args[1][dim] == 1 for dim in dims):
        return dims
    if "upsample" in name and dims == (-2, -1) and not any(argument(function, f"scales_{x}", args, kwargs) for x in "hw"):
        return None  # to a given size; by a factor the map would become larger than that
    if name == "cat" and len(vectors) == len(inputs) and _dim(function, args, kwargs, inputs[0]) not in dims:
        return dims
    if name == "native_layer_norm" and first and -len(args[1]) > max(dims):
        return dims
    if name in _ALONG and first:
        worked = worked or [_dim(function, args, kwargs, inputs[0])]
        if not {None, *dims} & set(worked):
            fewer = inputs[0].ndim - tensors_in((out,))[0].ndim
            return tuple(dim + sum(other > dim for other in worked) if fewer else dim for dim in dims)
    return f"{name} follows on its 1x1 output, and does not treat the positions of a map by themselves; leave it out"


def _dim(function, args: tuple, kwargs: dict, x: Tensor) -> int | None:
    """The one dimension that an operation that moves pixels works along, from the end."""
    dim = argument(function, "dim", args, kwargs)
    return dim % x.ndim - x.ndim if isinstance(dim, int) else None

"""Operations on PyTorch's meta device: the shapes of their outputs, and whether they look at a whole map."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from basicsr.tlc.dryrun.axes import lost, place
from basicsr.tlc.dryrun.quick import quick
from basicsr.tlc.dryrun.standins import StayOn, answer

# They move pixels, or make new ones: nothing is aggregated, whatever the sizes.
_MOVES = {"select", "slice", "index", "narrow", "split", "split_with_sizes", "unbind", "as_strided", "chunk", "cat", "stack"}
_MOVES |= {"squeeze", "unsqueeze", "transpose", "permute", "roll", "flip", "unfold", "index_select", "gather", "diagonal"}
_MOVES |= {"slice_scatter", "select_scatter", "index_fill", "index_copy", "scatter", "repeat_interleave", "unsafe_split"}
_MOVES |= {"constant_pad_nd", "reflection_pad2d", "replication_pad2d"}
_MOVES |= {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"}
# Matrix products, and which of their arguments has the dimension that is summed over as its last.
_PRODUCTS = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "linear": 0, "matmul": 0, "addmm": 1, "baddbmm": 1, "addmv": 1, "addbmm": 1}
VIEWS = {"view", "_unsafe_view", "_reshape_alias"}

Pair = tuple[int, int]  # a size in a run, and in that of the larger image


class Operation(NamedTuple):
    """Of one operation: the shapes of its inputs and outputs, the sizes that it aggregates over, and how far apart the pixels
    are that it takes."""

    inputs: list[tuple[int, ...]]
    outputs: list[tuple[int, ...]]
    extents: tuple[int, ...]
    steps: tuple[int, ...]
    numbers: tuple[float, ...] = ()  # see `scales`

    @classmethod
    def of(cls, function, args: tuple, kwargs: dict, out: object) -> "Operation":
        inputs, outputs = tensors_in(args), tensors_in((out,))
        shapes = [tuple(x.shape) for x in inputs], [tuple(x.shape) for x in outputs]
        return cls(*shapes, _extents(function, args, kwargs), _steps(function, args, kwargs))


def is_global(function, args: tuple, small: Operation, large: Operation) -> bool:
    """Whether an operation looks at the whole map: it aggregates over more when the image is larger, or some output does not
    grow with its input."""
    name = function.overloadpacket.__name__
    if small.steps != large.steps:
        return True
    if name in _MOVES or (name == "native_batch_norm" and not args[5]):  # args[5]: training
        return False
    if small.extents != large.extents:
        return True
    if small.inputs == large.inputs:
        return False
    if any(a == b and 0 not in a for a, b in zip(small.outputs, large.outputs, strict=False)):
        return True
    if "adaptive" not in name:
        return False
    axes = zip(small.inputs[0], large.inputs[0], small.outputs[0], large.outputs[0], strict=True)
    return any(a != b and c == d for a, b, c, d in axes)  # pooled to a row or to a column


def _extents(function, args: tuple, kwargs: dict) -> tuple[int, ...]:
    """The sizes along which an operation aggregates: of its `dim`, of its kernel, of the sum in a product of matrices."""
    name = function.overloadpacket.__name__
    if name in _PRODUCTS:
        return (args[_PRODUCTS[name]].shape[-1],)
    if name == "convolution":
        return tuple(args[1].shape[2:])
    if "scaled_dot_product" in name:
        return (args[1].shape[-2],)
    kernel, dims = argument(function, "kernel_size", args, kwargs), worked_dims(function, args, kwargs)
    sizes = [args[0].shape[dim] for dim in dims]
    return (*sizes, *(kernel if isinstance(kernel, (tuple, list)) else ()))


def regrouped(small: Operation, large: Operation) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """The dimensions of a view's input, and those that it makes of them: as few at a time as there can be."""
    shapes = [(small.inputs[0], large.inputs[0]), (small.outputs[0], large.outputs[0])]
    if any(len(a) != len(b) for a, b in shapes):
        return
    before, after = ([pair for pair in zip(*pairs, strict=True) if pair != (1, 1)] for pairs in shapes)
    products, groups = [[1, 1], [1, 1]], ([], [])
    while before or after:
        side = 0 if before and (products[0][0] <= products[1][0] or not after) else 1
        pair = (before, after)[side].pop(0)
        groups[side].append(pair)
        products[side] = [product * size for product, size in zip(products[side], pair, strict=True)]
        if products[0] == products[1]:
            yield groups
            products, groups = [[1, 1], [1, 1]], ([], [])


def leading(sizes: list[Pair]) -> int:
    """The number of elements along the dimensions before the first that grows."""
    return math.prod(size for size, _ in takewhile(lambda pair: pair[0] == pair[1], sizes))


def _steps(function, args: tuple, kwargs: dict) -> tuple[int, ...]:
    """How far apart the pixels are that an operation takes from a map, or how far it moves them."""
    name = function.overloadpacket.__name__
    if name in ("slice", "unfold"):
        return (argument(function, "step", args, kwargs),)
    if name == "roll":
        return tuple(argument(function, "shifts", args, kwargs))
    dilation = argument(function, "dilation", args, kwargs)
    single = name == "convolution" and args[1].shape[2:].numel() == 1
    return tuple(dilation) if isinstance(dilation, (tuple, list)) and not single else ()


def worked_dims(function, args: tuple, kwargs: dict) -> list[int]:
    """The dimensions along which an operation works, when it is one that aggregates."""
    name = function.overloadpacket.__name__
    if name in _MOVES or not args or not isinstance(args[0], Tensor) or args[0].ndim == 0:
        return []
    dims = argument(function, "dim", args, kwargs)
    dims = dims if isinstance(dims, (tuple, list)) else [dims] if isinstance(dims, int) else []
    return [dim % args[0].ndim for dim in dims]


def argument(function, name: str, args: tuple, kwargs: dict) -> object:
    """The argument of that name, its default where it was left out, as PyTorch does with defaults that were spelled out."""
    index, default = _parameters(function).get(name, (len(args), None))
    return args[index] if index < len(args) else kwargs.get(name, default)


@cache
def _parameters(function) -> dict[str, tuple[int, object]]:
    """By name, the position and the default."""
    return {argument.name: (index, argument.default_value) for index, argument in enumerate(function._schema.arguments)}


class Shapes(TorchDispatchMode):
    """Runs operations on meta tensors for their shapes alone, and shows each to `saw`.

    Args:
        known: shapes that an earlier run has worked out; this one adds to them.
        stays: whether what asks for another device than meta stays there, which takes time.
    """

    def __init__(self, known: dict[object, tuple] | None = None, stays: bool = True) -> None:
        super().__init__()
        self.stays = stays
        self.known = {} if known is None else known
        self.real = False  # while a forward runs on zeros, since it does not run on shapes
        self.refused: Exception | None = None  # by an operation, because of its shapes
        self._devices: list[StayOn] = []

    def __enter__(self) -> "Shapes":
        if self.stays:
            self._devices.append(StayOn("meta", self))
            self._devices[-1].__enter__()
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self.stays:
            self._devices.pop().__exit__(*error)

    @contextmanager
    def on_zeros(self) -> Iterator[None]:
        self.real = True
        try:
            yield
        finally:
            self.real = False

    def saw(self, function, args: tuple, kwargs: dict, out: object, operation: Operation) -> None:
        """For those who want to look."""

    def asked(self, *values: object) -> None:
        """A forward looked at these tensors' values, and was given stand-ins."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # True, the default, makes PyTorch import its compiler, which takes a second
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.real:
            out = function(*args, **kwargs)
            self.saw(function, args, kwargs, out, Operation.of(function, args, kwargs, out))
            return out
        key = None if function._schema.is_mutable else _signature((function, args, tuple(kwargs.items())))
        if key in self.known:  # all of its tensors are on meta
            out, operation = self._known(key)
            self.saw(function, args, kwargs, out, operation)
            return out
        places = {x.is_meta for x in tensors_in(args)}
        if len(places) == 2:  # tensors that the net holds as plain attributes come along
            args = tree_map_only(Tensor, _on_meta, args)
            key = _signature((function, args, tuple(kwargs.items())))
        if True in places and (answered := answer(function, args, kwargs)):
            self.asked(*args)
            for x in tensors_in((answered.value,)):
                place(x, lost(x.shape, "values"))
            return answered.value
        try:
            out, operation = self._shaped(function, args, kwargs, key)
        except NotImplementedError:
            raise
        except Exception as error:
            if function.namespace == "aten":  # others may have no shapes at all
                self.refused = error
            raise
        # Others do not depend on the image, and may be kept by the net.
        if True in places or any(x.is_meta for x in tensors_in((out,))):
            self.saw(function, args, kwargs, out, operation)
        return out

    def _shaped(self, function, args: tuple, kwargs: dict, key: object) -> tuple[object, Operation]:
        """The operation's output on meta. Blocks repeat, and PyTorch works out shapes slowly: each is worked out once."""
        if function._schema.is_mutable:
            in_place = torch.Tag.pointwise in function.tags and function.overloadpacket.__name__.endswith("_")
            out = args[0] if in_place and args[0].is_meta else function(*args, **kwargs)
            return out, Operation.of(function, args, kwargs, out)
        if key in self.known:
            return self._known(key)
        out = None if key is None else quick(function, args, kwargs, tensors_in(args))
        if out is None:
            out = function(*args, **kwargs)
        operation = Operation.of(function, args, kwargs, out)
        parts = out if isinstance(out, (tuple, list)) else (out,)
        if key is not None and all(isinstance(part, Tensor) and part.is_meta for part in parts):
            self.known[key] = [(part.shape, part.stride(), part.dtype) for part in parts], type(out), operation
        return out, operation

    def _known(self, key: object) -> tuple[object, Operation]:
        parts, kind, operation = self.known[key]
        out = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in parts]
        return (kind(out) if kind in (tuple, list) else out[0]), operation


def _on_meta(x: Tensor) -> Tensor:
    """A tensor that the image may meet; `scales` wants to know a single number."""
    moved = x.to("meta")
    if not x.is_meta and x.numel() == 1 and not x.is_complex():
        moved._tlc_numbers = (float(x),)
    return moved


def _signature(value: object) -> object:
    """A hashable stand-in for an operation's arguments: equal ones give outputs of equal shape. None: there is none."""
    kind = type(value)
    if kind is int or kind is bool:  # most of them, and looked at before the slow test for a tensor
        return (kind, value)
    if isinstance(value, Tensor):
        return (value.shape, value.stride(), value.dtype) if value.is_meta else None
    if kind is tuple or kind is list:
        parts = tuple([_signature(part) for part in value])
        return None if None in parts else parts
    return (kind, value)


def tensors_in(values: Iterable) -> list[Tensor]:
    found = []
    for value in values:
        if isinstance(value, (tuple, list)):
            found += tensors_in(value)
        elif not isinstance(value, (int, float)) and isinstance(value, Tensor):
            found.append(value)
    return found

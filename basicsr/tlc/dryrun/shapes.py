"""Operations on PyTorch's meta device: the shapes of their outputs, and whether they look at a whole map."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from itertools import takewhile, zip_longest
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from basicsr.tlc.dryrun.axes import lost, place
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
        out = None if key is None else _quick(function, args, kwargs)
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


def _quick(function, args: tuple, kwargs: dict) -> Tensor | tuple[Tensor, ...] | None:
    """The output of the most common operations, or None. Their kernels for meta are written in Python, and the first that runs
    in a process imports PyTorch's compiler, which takes longer than all the rest of the dry run."""
    name = function.overloadpacket.__name__
    tensors = tensors_in(args)
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors]) if tensors else None
    if dtype is None or not dtype.is_floating_point:
        return None
    if torch.Tag.pointwise in function.tags and len(function._schema.returns) == 1:
        shapes = [_broadcast([x.shape for x in tensors])]
        ones = tree_map_only(Tensor, lambda x: torch.ones([1] * x.ndim, dtype=x.dtype), (args, kwargs))
        dtype = function(*ones[0], **ones[1]).dtype  # comparisons are bool
    elif name in ("_prelu_kernel", "_softmax"):
        shapes = [tensors[0].shape]
    elif name == "convolution":
        shapes = [_convolved(*args)]
    elif name == "native_layer_norm":
        normed = len(args[1])
        statistics = (*tensors[0].shape[:-normed], *[1] * normed)
        shapes = [tensors[0].shape, statistics, statistics]
    elif name == "native_group_norm":
        statistics = (args[3], args[6])  # samples, groups
        shapes = [tensors[0].shape, statistics, statistics]
    elif name == "native_batch_norm":
        statistics = (tensors[0].shape[1] if args[5] else 0,)  # args[5]: from the batch, as instance norm has it
        shapes = [tensors[0].shape, statistics, statistics]
    elif name == "cat" and all(x.ndim == tensors[0].ndim for x in tensors):
        dim = args[1] if len(args) > 1 else 0
        joined = list(tensors[0].shape)
        joined[dim] = sum(x.shape[dim] for x in tensors)
        shapes = [joined]
    elif name == "linalg_vector_norm" and len(args) == 4 and args[2] is not None:
        shapes = [_reduced(tensors[0].shape, args[2], args[3])]
    elif name in ("pixel_shuffle", "pixel_unshuffle") and tensors[0].ndim == 4:
        n, c, h, w = tensors[0].shape
        r = args[1]
        shapes = [(n, c // r**2, h * r, w * r) if name == "pixel_shuffle" else (n, c * r**2, h // r, w // r)]
        if c % r**2 if name == "pixel_shuffle" else h % r or w % r:
            return None  # the operation itself says what is wrong
    elif name.startswith("upsample_") and len(args) > 1 and args[1]:
        shapes = [(*tensors[0].shape[:2], *args[1])]
    elif name == "bmm" and tensors[0].shape[::2] == tensors[1].shape[:2]:
        shapes = [(*tensors[0].shape[:2], tensors[1].shape[2])]
    elif name in ("mean", "sum") and len(args) > 1 and args[1]:
        shapes = [_reduced(tensors[0].shape, args[1], len(args) > 2 and args[2])]
    else:
        return None
    made = tuple([torch.empty(shape, dtype=dtype, device="meta") for shape in shapes])
    return made if len(made) > 1 else made[0]


def _broadcast(shapes: list[torch.Size]) -> list[int]:
    """torch.broadcast_shapes, which imports PyTorch's compiler."""
    sizes = [{*dims} - {1} for dims in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)]
    if any(len(dims) > 1 for dims in sizes):
        raise RuntimeError(f"shapes {', '.join(str(tuple(shape)) for shape in shapes)} do not go together")
    return [next(iter(dims), 1) for dims in reversed(sizes)]


def _reduced(shape: torch.Size, dims: Iterable[int], keepdim: bool) -> list[int]:
    dims = {dim % len(shape) for dim in dims}
    return [1 if dim in dims else size for dim, size in enumerate(shape) if keepdim or dim not in dims]


def _convolved(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups) -> tuple[int, ...]:
    """The output shape of aten.convolution, as the documentation of nn.Conv2d and nn.ConvTranspose2d gives it."""
    sizes = []
    for i, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        s, p, reach = stride[i % len(stride)], padding[i % len(padding)], dilation[i % len(dilation)] * (kernel - 1)
        if transposed:
            sizes.append((size - 1) * s - 2 * p + reach + output_padding[i % len(output_padding)] + 1)
        else:
            sizes.append((size + 2 * p - reach - 1) // s + 1)
    if min(sizes) < 1 or x.shape[1] != weight.shape[0 if transposed else 1] * (1 if transposed else groups):
        raise RuntimeError(f"a convolution with weights of {tuple(weight.shape)} does not take maps of {tuple(x.shape)}")
    return (x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *sizes)


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

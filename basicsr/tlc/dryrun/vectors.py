"""What a net makes of the 1x1 outputs of its modules: whether the map that a local module hands out could take their place.

It can where each position is treated by itself, as a 1x1 convolution does. Only operations that are known to do so count.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from basicsr.tlc.dryrun.shapes import argument, tensors_in, worked_dims
from basicsr.tlc.local import Size

_RESHAPES = {"view", "_unsafe_view", "_reshape_alias", "squeeze", "select"}
_ALIKE = {"detach", "alias", "_to_copy", "_prelu_kernel", "hardswish", "log_sigmoid_forward"}  # pointwise, but not tagged so
_ALIKE |= {"hardsigmoid", "mish", "softplus", "elu", "leaky_relu", "hardtanh", "celu", "threshold"}  # in older PyTorch
# With a `dim` other than rows and columns.
_ALONG = {"mean", "sum", "amax", "amin", "var", "std", "prod", "max", "min", "linalg_vector_norm", "norm", "glu", "cumsum"}
_ALONG |= {"_softmax", "_log_softmax", "logsumexp", "split", "split_with_sizes", "unsafe_split", "slice", "unbind", "flip"}


class Vector(NamedTuple):
    """A tensor made of 1x1 outputs.

    Attributes:
        tensor: kept, so that its id stays its own.
        modules: whose outputs they are.
        dims: those that would be the rows and columns of a map in its place, counted from the end.
    """

    tensor: Tensor
    modules: frozenset[nn.Module]
    dims: Size = (-2, -1)


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

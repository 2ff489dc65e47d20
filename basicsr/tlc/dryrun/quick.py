"""The shapes of what the most common operations make. Their kernels for meta are written in Python, and the first that
runs in a process imports PyTorch's compiler, which takes longer than all the rest of the dry run."""

from collections.abc import Iterable
from functools import reduce
from itertools import zip_longest

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


def quick(function, args: tuple, kwargs: dict, tensors: list[Tensor]) -> Tensor | tuple[Tensor, ...] | None:
    """An operation's output, on meta, or None where it is none of these. tensors: those among its arguments."""
    name = function.overloadpacket.__name__
    dtype = reduce(torch.promote_types, [x.dtype for x in tensors]) if tensors else None
    pointwise = torch.Tag.pointwise in function.tags and len(function._schema.returns) == 1
    if dtype is None or not (dtype.is_floating_point or dtype.is_complex):
        return None
    if name in ("_fft_c2c", "_fft_r2c", "_fft_c2r"):
        shape, dtype = _transformed(name, *args)
        shapes = [shape]
    elif dtype.is_complex and not pointwise:
        return None
    elif pointwise:
        shapes = [_broadcast([x.shape for x in tensors])]
        ones = tree_map_only(Tensor, lambda x: torch.ones([1] * x.ndim, dtype=x.dtype), (args, kwargs))
        dtype = function(*ones[0], **ones[1]).dtype  # comparisons are bool
    elif name in ("_prelu_kernel", "_softmax", "_safe_softmax", "roll", "flip"):
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
    elif name in ("mm", "addmm") and tensors[-2].shape[1] == tensors[-1].shape[0]:
        shapes = [(tensors[-2].shape[0], tensors[-1].shape[1])]
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


def _transformed(name: str, x: Tensor, dims: list[int], _: int, last: int) -> tuple[list[int], torch.dtype]:
    """Of a Fourier transform. last: whether half of a real map's is left out; the size of a real map that it becomes."""
    shape = list(x.shape)
    if name == "_fft_r2c" and last:
        shape[dims[-1]] = shape[dims[-1]] // 2 + 1
    if name == "_fft_c2r":
        shape[dims[-1]] = last
        return shape, x.dtype.to_real()
    return shape, x.dtype.to_complex()


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

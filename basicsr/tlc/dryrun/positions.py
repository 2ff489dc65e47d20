"""What operations do to the places of pixels: whether an index of their output is the same place as one of their input.

Each tensor of the dry run carries its layout (see `axes`). What is not known here loses it, so that no window is taken there.
"""

import torch
from torch import Tensor

from basicsr.tlc.dryrun import maps, moves
from basicsr.tlc.dryrun.axes import Dim, Layout, along, axis_of, known, layout_of, lost, met, place, plain, size_of
from basicsr.tlc.dryrun.moves import Call, indexwise
from basicsr.tlc.dryrun.shapes import tensors_in

# Of their input they have the shape alone.
_ALONE = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "zeros_like", "ones_like", "full_like"}
_ALONE |= {"empty_like", "rand_like", "randn_like", "randint_like"}
# Index by index, but not tagged so by every PyTorch.
_INDEXWISE = {"_prelu_kernel", "hardswish", "log_sigmoid_forward", "hardsigmoid", "mish", "softplus", "elu", "leaky_relu"}
_INDEXWISE |= {"hardtanh", "celu", "threshold", "complex", "polar", "where", "masked_fill", "lerp", "addcmul", "addcdiv"}
_STAYING = {"alias", "detach", "clone", "_to_copy", "copy", "cat", "convolution", "native_batch_norm", "native_layer_norm"}
_FILLED = {"zero", "fill", "uniform", "normal", "bernoulli", "exponential", "random"}
_RULES = {**moves.RULES, **maps.RULES}


def follow(function, args: tuple, kwargs: dict, out: object) -> None:
    """Give an operation's outputs their layouts."""
    inputs = tensors_in((*args, *kwargs.values()))
    call = Call(function, args, kwargs, tensors_in((out,)))
    if function._schema.is_mutable:
        _write(call, inputs)
        return
    returns = function._schema.returns
    if returns and returns[0].alias_info is not None and inputs:
        for part in call.outs:
            part._tlc_viewed = call
    if call.name in _ALONE or all(layout_of(x) is None for x in inputs):
        return
    for part, layout in zip(call.outs, _layouts(call, inputs), strict=False):
        layout = _fitting(layout, part, call)
        place(part, _halved(layout) if part.dtype.is_complex and _is_half(call, inputs) else layout)


def keeps_places(function) -> bool:
    """Whether an operation leaves each index where it is, whatever its arguments, as one that works on each by itself does."""
    name = function.overloadpacket.__name__
    return torch.Tag.pointwise in function.tags or name.removesuffix("_") in _INDEXWISE | _STAYING


def _fitting(layout: Layout | None, x: Tensor, call: Call) -> Layout:
    fits = layout is not None and tuple(map(size_of, layout)) == tuple(x.shape)
    return layout if fits else lost(x.shape, call.name)


def _is_half(call: Call, inputs: list[Tensor]) -> bool:
    """Whether complex numbers are made of one real map, such as amplitudes without phases."""
    placed = [x for x in inputs if layout_of(x) is not None]
    return call.name not in ("_fft_r2c", "view_as_complex") and len(placed) == 1 and not placed[0].dtype.is_complex


def _halved(layout: Layout) -> Layout:
    """A spectrum's half, whose inverse is no map of the image."""
    return tuple(_half(dim) for dim in layout)


def _half(dim: Dim) -> Dim:
    axis = axis_of(dim)
    if axis is None or not axis.moves or axis.moves[-1][0] not in ("fft", "ifft"):
        return dim
    return along(size_of(dim), axis.moved("half", size_of(dim)))


def _layouts(call: Call, inputs: list[Tensor]) -> list[Layout | None]:
    if torch.Tag.pointwise in call.function.tags or call.name in _INDEXWISE:
        return [indexwise(inputs, call.outs[0].ndim)] * len(call.outs)
    try:
        layouts = _RULES[call.name](call) if call.name in _RULES else None
    except Exception:  # noqa: BLE001 - arguments that no rule expects: nothing is known then
        layouts = None
    return layouts if isinstance(layouts, list) else [layouts] * len(call.outs)


def _write(call: Call, inputs: list[Tensor]) -> None:
    """In place: also what a tensor is a view of has new values then."""
    x = call.args[0] if call.args else None
    if not isinstance(x, Tensor) or call.name in _FILLED or all(layout_of(other) is None for other in inputs):
        return
    if call.name == "copy":
        layout = indexwise([call.args[1]], x.ndim)
        dims = zip(layout, x.shape, strict=True)
        layout = tuple(plain(size) if size_of(dim) == 1 else dim for dim, size in dims)
    else:
        layout = _layouts(call, inputs)[0]
    _put(x, _fitting(layout, x, call), _root(call.args[1]) if call.name == "copy" else None)


def _put(x: Tensor, layout: Layout, source: Tensor | None) -> None:
    changed = layout != layout_of(x)
    place(x, layout)
    viewed = getattr(x, "_tlc_viewed", None)
    if viewed is None or not changed:
        return
    whole = viewed.args[0]
    if source is not None and _root(x) is source:  # borders of a circular padding: the middle says what the map is
        return
    _put(whole, _around(viewed, layout, known(whole)) or lost(whole.shape, "an assignment"), None)


def _around(viewed: Call, layout: Layout, before: Layout) -> Layout | None:
    """The layout of what a slice was taken of, when that slice has a new one."""
    if viewed.name == "select":
        dim = viewed.dim()
        layout = (*layout[:dim], plain(viewed.args[0].shape[dim]), *layout[dim:])
    elif viewed.name == "slice":
        dim, step = viewed.dim(), viewed.get("step")
        layout = (*layout[:dim], _uncut(viewed, layout[dim], dim, step), *layout[dim + 1 :])
    elif viewed.name not in ("alias", "detach"):
        return None
    return tuple(met(old, new) for old, new in zip(before, layout, strict=True))


def _uncut(viewed: Call, cut: Dim, dim: int, step: int) -> Dim:
    size, start = viewed.args[0].shape[dim], viewed.get("start") or 0
    axis = axis_of(cut)
    if axis is None or size_of(cut) == size:
        return cut if size_of(cut) == size else plain(size)
    start = min(start + size if start < 0 else start, size)
    return along(size, axis._replace(offset=axis.offset * step - start + start % step, scale=axis.scale / step))


def _root(x: object) -> object:
    while getattr(x, "_tlc_viewed", None) is not None:
        x = x._tlc_viewed.args[0]
    return x

"""What operations that move elements, or work along a dimension, make of layouts (see `axes`)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from basicsr.tlc.dryrun.axes import (
    LOST,
    Axis,
    Dim,
    Layout,
    along,
    axis_of,
    is_placed,
    joined,
    known,
    lost,
    met,
    plain,
    regrouped,
    size_of,
    stacked,
    unstacked,
)
from basicsr.tlc.dryrun.shapes import argument, tensors_in


class Call(NamedTuple):
    """An operation, and its outputs."""

    function: object
    args: tuple
    kwargs: dict
    outs: list[Tensor]

    @property
    def name(self) -> str:
        return self.function.overloadpacket.__name__.removesuffix("_")

    @property
    def first(self) -> Layout:
        return known(self.args[0])

    def get(self, name: str) -> object:
        return argument(self.function, name, self.args, self.kwargs)

    def dim(self, name: str = "dim") -> int:
        return self.get(name) % self.args[0].ndim


def indexwise(tensors: list[Tensor], ndim: int) -> Layout:
    """Of what is made of tensors that are broadcast."""
    dims: list[Dim] = [()] * ndim
    for x in tensors:
        for back, dim in enumerate(reversed(known(x)), 1):
            if size_of(dim) != 1:
                dims[-back] = met(dims[-back], dim)
    return tuple(dims)


def _reduced(call: Call) -> Layout:
    dims = call.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    x = call.args[0]
    gone = {dim % x.ndim for dim in dims} if dims and x.ndim else set(range(x.ndim))
    kept = call.outs[0].ndim == x.ndim
    return tuple(() if i in gone else dim for i, dim in enumerate(call.first) if kept or i not in gone)


def _view(call: Call) -> Layout | None:
    return regrouped(call.first, call.outs[0].shape)


def _permuted(call: Call) -> Layout:
    ndim = call.args[0].ndim
    order = list(range(ndim))
    if call.name == "permute":
        order = [dim % ndim for dim in call.args[1]]
    elif ndim > 1:
        a, b = (0, 1) if call.name == "t" else (call.args[1], call.args[2])
        order[a], order[b] = order[b], order[a]
    return tuple(call.first[i] for i in order)


def _changed(call: Call, dim: int, new: Dim) -> Layout:
    return (*call.first[:dim], new, *call.first[dim + 1 :])


def _cut(dim: Dim, start: int, step: int, size: int) -> Dim:
    """Every step-th index from `start` on."""
    if start == 0 and size == size_of(dim):
        return dim
    inner = dim[1:]
    if dim and dim[0].axis is None and step == 1 and not start % size_of(inner) and not size % size_of(inner):
        return joined((*plain(size // size_of(inner)), *inner))
    axis = axis_of(dim)
    cut = axis and axis.cropped(start, step)
    return (cut and _of_part(cut, size)) or along(size, cut)


def _of_part(axis: Axis, size: int) -> Dim | None:
    """Where several dimensions were put one behind the other: of one of them, when all these indices are in it."""
    if not axis.moves or axis.moves[-1][0] != "cat" or axis.scale != 1:
        return None
    start = axis.offset
    for part in axis.moves[-1][1:]:
        if start >= 0 and start + size <= size_of(part):
            return _cut(part, int(start), 1, size)
        start -= size_of(part)
    return None


def _slice(call: Call) -> Layout:
    dim, full = call.dim(), call.args[0].shape[call.dim()]
    start = call.get("start") or 0
    start = min(max(start + full if start < 0 else start, 0), full)
    size, step = call.outs[0].shape[dim], call.get("step")
    layout = _changed(call, dim, _cut(call.first[dim], start, step, size))
    return _of_samples(layout, dim, start, size) if step == 1 else layout


def _split(call: Call) -> list[Layout]:
    dim, start, layouts = call.dim(), 0, []
    for part in call.outs:
        layout = _changed(call, dim, _cut(call.first[dim], start, 1, part.shape[dim]))
        layouts.append(_of_samples(layout, dim, start, part.shape[dim]))
        start += part.shape[dim]
    return layouts


def _selected(call: Call, index: int | None = None) -> Layout:
    dim, index = call.dim(), call.get("index") if index is None else index
    layout = _of_samples(call.first, dim, index % call.args[0].shape[dim], 1)
    return (*layout[:dim], *layout[dim + 1 :])


def _unbound(call: Call) -> list[Layout]:
    return [_selected(call, index) for index in range(len(call.outs))]


def _of_samples(layout: Layout, dim: int, start: int, count: int) -> Layout:
    """Where samples of several places were put one behind the other, those of some."""
    return layout if dim else (layout[0], *(unstacked(other, start, count) for other in layout[1:]))


def _expanded(call: Call) -> Layout:
    dims = [dim if size_of(dim) != 1 else None for dim in call.first]
    shape = call.outs[0].shape
    dims = [None] * (len(shape) - len(dims)) + dims
    return tuple(plain(size) if dim is None else dim for dim, size in zip(dims, shape, strict=True))


def _repeated(call: Call) -> Layout:
    counts = call.args[1]
    dims = [()] * (len(counts) - len(call.first)) + [*call.first]
    return tuple(joined((*plain(count), *dim)) for count, dim in zip(counts, dims, strict=True))


def _moved(dim: Dim, move: str, size: int | None = None) -> Dim:
    """In another order, of another size."""
    axis = axis_of(dim)
    return along(size or size_of(dim), axis and axis.moved(move, size_of(dim)))


def _flipped(call: Call) -> Layout:
    gone = {dim % len(call.first) for dim in call.args[1]}
    return tuple(_moved(dim, "flip") if i in gone else dim for i, dim in enumerate(call.first))


def _rolled(call: Call) -> Layout | None:
    shifts, dims = call.args[1], call.get("dims")
    if not dims:
        return None
    layout = [*call.first]
    for shift, dim in zip(shifts, dims, strict=True):
        if axis := axis_of(layout[dim]):
            size = size_of(layout[dim])
            layout[dim] = along(size, axis.rolled(shift, size))
    return tuple(layout)


def _transformed(call: Call) -> Layout:
    back = call.name == "_fft_c2r" or (call.name == "_fft_c2c" and not call.args[3])
    layout = [*call.first]
    for dim in call.args[1]:
        if axis := axis_of(layout[dim]):
            full = max(size_of(layout[dim]), call.outs[0].shape[dim])  # a half of a real map's spectrum is kept
            layout[dim] = along(call.outs[0].shape[dim], axis.moved("ifft" if back else "fft", full))
        else:
            layout[dim] = plain(call.outs[0].shape[dim])
    return tuple(layout)


def _reordered(call: Call) -> Layout | None:
    """By sorting, by an index along one dimension."""
    x, out = call.args[0], call.outs[0]
    dim = call.dim()
    others = [i for i in range(x.ndim) if i != dim]
    if out.ndim != x.ndim or any(x.shape[i] != out.shape[i] for i in others):
        return None
    return _changed(call, dim, _moved(call.first[dim], call.name, out.shape[dim]))


def _indexed(call: Call) -> Layout | None:
    """x[:, index]"""
    found = [(dim, index) for dim, index in enumerate(call.args[1]) if index is not None]
    (dim, index), out = found[0], call.outs[0]
    if len(found) > 1 or index.ndim != 1 or is_placed(call.first[dim]) or out.ndim != call.args[0].ndim:
        return None
    return _changed(call, dim, plain(out.shape[dim]))


def _scattered(call: Call) -> Layout | None:
    return None if is_placed(call.first[call.dim()]) else call.first


def _masked(call: Call) -> Layout | None:
    """x[mask] = y"""
    indices = [index for index in call.args[1] if index is not None]
    whole = len(indices) == 1 and indices[0].dtype == torch.bool
    return call.first if whole or not any(map(is_placed, call.first)) else None


def _joined(call: Call) -> Layout | None:
    tensors = tensors_in((call.args[0],))
    if call.name == "stack":
        dim = call.get("dim") % call.outs[0].ndim
        parts = [(*known(x)[:dim], (), *known(x)[dim:]) for x in tensors]
    else:
        tensors = [x for x in tensors if x.ndim == call.outs[0].ndim]
        dim, parts = call.get("dim") % call.outs[0].ndim, [known(x) for x in tensors]
    dims = []
    for i, others in enumerate(zip(*parts, strict=True)):
        size = call.outs[0].shape[i]
        if i == dim:
            dims.append(_one_behind_the_other(others, size))
            continue
        if dim == 0 and call.name == "cat":
            dims.append(stacked([*zip([x.shape[0] for x in tensors], others, strict=True)]))
            continue
        dims.append(others[0])
        for other in others[1:]:
            dims[-1] = met(dims[-1], other)
    return tuple(dims)


def _one_behind_the_other(parts: tuple[Dim, ...], size: int) -> Dim:
    """Rows that were cut, and are put together again; channels."""
    if not any(map(is_placed, parts)):
        return plain(size)
    axis, start = axis_of(parts[0]), 0
    for part in parts:
        other = axis_of(part)
        if axis is None or other is None or other != axis._replace(offset=axis.offset + start):
            return along(size, Axis(LOST, (("cat", *parts),)))
        start += size_of(part)
    return along(size, axis)


def _product(call: Call) -> Layout:
    a, b = map(known, call.args[-2:] if call.name in ("addmm", "baddbmm") else call.args[:2])
    if call.name == "linear":
        return (*a[:-1], b[0] if not is_placed(a[-1]) else _transform(b[0]))
    if call.name == "mv":
        return a[:-1]
    batch = tuple(met(x, y) for x, y in zip(a[:-2], b[:-2], strict=True))
    rows, summed, others, columns = a[-2], a[-1], b[-2], b[-1]
    # A matrix along rows or columns that is not made of them: a transform.
    columns = _transform(columns) if is_placed(summed) and not is_placed(others) else columns
    rows = _transform(rows) if is_placed(others) and not is_placed(summed) else rows
    return (*batch, rows, columns)


def _transform(dim: Dim) -> Dim:
    return dim if is_placed(dim) else lost([size_of(dim)], "matmul")[0]


def _viewed_as_real(call: Call) -> Layout:
    return (*call.first, plain(2))


def _viewed_as_complex(call: Call) -> Layout:
    return call.first[:-1]


def _kept(call: Call) -> Layout:
    return call.first


REDUCED = ("mean", "sum", "amax", "amin", "var", "std", "prod", "max", "min", "linalg_vector_norm", "norm", "logsumexp")
REDUCED += ("argmax", "argmin", "median", "nanmedian", "mode", "var_mean", "std_mean", "any", "all", "nansum", "aminmax")
_KEPT = ("clone", "_to_copy", "alias", "detach", "lift_fresh", "_conj", "resolve_conj", "resolve_neg", "native_dropout", "tril")
_KEPT += (
    "_softmax",
    "_safe_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "native_layer_norm",
    "native_group_norm",
    "triu",
)
_KEPT += (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "_fused_rms_norm",
    "bernoulli",
)
_BY_NAMES: dict[tuple[str, ...], Callable] = {
    _KEPT: _kept,
    REDUCED: _reduced,
    ("view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze"): _view,
    ("permute", "transpose", "t"): _permuted,
    ("slice",): _slice,
    ("split", "split_with_sizes", "unsafe_split"): _split,
    ("select",): _selected,
    ("unbind",): _unbound,
    ("expand",): _expanded,
    ("repeat",): _repeated,
    ("flip",): _flipped,
    ("roll",): _rolled,
    ("_fft_r2c", "_fft_c2c", "_fft_c2r"): _transformed,
    ("view_as_real",): _viewed_as_real,
    ("view_as_complex",): _viewed_as_complex,
    ("sort", "topk", "gather", "index_select"): _reordered,
    ("index",): _indexed,
    ("scatter", "scatter_add", "scatter_reduce", "index_copy", "index_add", "index_fill"): _scattered,
    ("index_put",): _masked,
    ("cat", "stack"): _joined,
    ("mm", "bmm", "addmm", "baddbmm", "mv", "linear"): _product,
}
RULES = {name: rule for names, rule in _BY_NAMES.items() for name in names}

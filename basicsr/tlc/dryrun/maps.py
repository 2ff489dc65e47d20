"""What convolutions, pools and resampling make of layouts (see `axes`): each output is where its window's centre is.

Strides that leave a centre between two pixels take it for either, as trained nets do.
"""

from basicsr.tlc.dryrun.axes import Axis, Dim, Layout, along, axis_of, known, plain, regrouped, size_of
from basicsr.tlc.dryrun.moves import Call


def _strided(dim: Dim, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Dim:
    """Along a dimension that a kernel runs over; of another size, or from another start."""
    shift = (dilation * (kernel - 1) + 1 - stride) / 2 - padding  # of the centre, against that of a block of `stride` pixels
    if stride == 1 and int(shift) == 0 and size == size_of(dim):
        return dim
    axis = axis_of(dim)
    return along(size, axis and _shifted(axis.cropped(0, stride), int(shift / stride)))


def _transposed(dim: Dim, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Dim:
    """The inverse."""
    shift = padding - (dilation * (kernel - 1) + 1 - stride) / 2
    axis = axis_of(dim)
    return along(size, axis and _shifted(axis.cropped(0, 1 / stride), int(shift)))


def _shifted(axis: Axis, shift: int) -> Axis:
    return axis._replace(offset=axis.offset + shift)


def _resized(dim: Dim, size: int) -> Dim:
    if size == size_of(dim):
        return dim
    axis = axis_of(dim)
    return along(size, axis and axis.cropped(0, size_of(dim) / size))


def _nth(values: object, index: int, default: int) -> int:
    values = [values] if isinstance(values, int) else values
    return values[index % len(values)] if values else default


def _over_maps(call: Call, kernel: object, stride: object, padding: object, dilation: object, back: bool = False) -> Layout:
    """The dimensions after the channels."""
    out, count = call.outs[0], len(kernel)
    rule, dims = _transposed if back else _strided, []
    for i, dim in enumerate(call.first[-count:]):
        sizes = _nth(kernel, i, 1), _nth(stride, i, _nth(kernel, i, 1)), _nth(padding, i, 0), _nth(dilation, i, 1)
        dims.append(rule(dim, out.shape[out.ndim - count + i], *sizes))
    channels = out.shape[-count - 1]
    same = out.shape[-count - 1] == call.args[0].shape[-count - 1] and call.name != "convolution"
    return (*call.first[: -count - 1], call.first[-count - 1] if same else plain(channels), *dims)


def _convolved(call: Call) -> Layout:
    weight, stride, padding, dilation, back = call.args[1], *call.args[3:7]
    return _over_maps(call, weight.shape[2:], stride, padding, dilation, back)


def _pooled(call: Call) -> list[Layout]:
    kernel = call.get("kernel_size")
    kernel = [kernel] if isinstance(kernel, int) else [*kernel]
    kernel = kernel * 2 if len(kernel) == 1 and "2d" in call.name else kernel
    dilation = call.get("dilation") or 1
    return [_over_maps(call, kernel, call.get("stride"), call.get("padding"), dilation)] * len(call.outs)


def _interpolated(call: Call) -> Layout:
    """To another size: resampling, and adaptive pools."""
    return tuple(
        _resized(dim, size) if i > 1 or len(call.first) == 3 else dim
        for i, (dim, size) in enumerate(zip(call.first, call.outs[0].shape, strict=True))
    )


def _shuffled(call: Call) -> Layout:
    *batch, _, rows, columns = call.first
    out = call.outs[0].shape
    return (*batch, plain(out[-3]), _resized(rows, out[-2]), _resized(columns, out[-1]))


def _padded(call: Call) -> Layout:
    pads, layout = call.args[1], [*call.first]
    for i in range(len(pads) // 2):
        dim, size = len(layout) - 1 - i, call.outs[0].shape[len(layout) - 1 - i]
        if pads[2 * i] or size != size_of(layout[dim]):
            axis = axis_of(layout[dim])
            layout[dim] = along(size, axis and _shifted(axis, -pads[2 * i]))
    return tuple(layout)


def _windows(call: Call) -> Layout:
    """x.unfold(dim, size, step)"""
    dim, size, step = call.get("dimension") % len(call.first), call.get("size"), call.get("step")
    count = call.outs[0].shape[dim]
    cut = _strided(call.first[dim], count, size, step, 0, 1)
    layout = (*call.first[:dim], cut, *call.first[dim + 1 :], plain(size))
    if size == step and count * step == size_of(call.first[dim]):
        parts = regrouped((call.first[dim],), (count, step))
        if parts:
            layout = (*call.first[:dim], parts[0], *call.first[dim + 1 :], parts[1])
    return layout


def _columns(call: Call) -> Layout:
    """F.unfold: (N, C, H, W) to (N, C * k1 * k2, L)."""
    kernel, dilation, padding, stride = call.args[1:5]
    out, dims = call.outs[0].shape, []
    for i, dim in enumerate(call.first[-2:]):
        size = (size_of(dim) + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        dims.append(_strided(dim, size, kernel[i], stride[i], padding[i], dilation[i]))
    return (*call.first[:-3], plain(out[-2]), (*dims[0], *dims[1]))


def _folded(call: Call) -> Layout | None:
    """F.fold, its inverse."""
    size, kernel, dilation, padding, stride = call.args[1:6]
    counts = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)]
    parts = regrouped((call.first[-1],), counts)
    if parts is None:
        return None
    dims = [_transposed(part, size[i], kernel[i], stride[i], padding[i], dilation[i]) for i, part in enumerate(parts)]
    return (*call.first[:-2], plain(call.outs[0].shape[-3]), *dims)


def _attended(call: Call) -> list[Layout]:
    return [(*call.first[:-1], known(call.args[2])[-1])] * len(call.outs)


_ATTENTION = (
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_flash_attention_for_cpu",
    "scaled_dot_product_attention",
)
_ATTENTION += ("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention")
_ATTENTION += ("_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_cudnn_attention")
_POOLS = ("avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d", "max_pool2d_with_indices")
_RESIZED = ("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_linear1d")
_RESIZED += ("_upsample_bilinear2d_aa", "upsample_bicubic2d", "_upsample_bicubic2d_aa", "_adaptive_avg_pool2d")
_RESIZED += ("adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool1d", "adaptive_max_pool1d")
_PADS = ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
_BY_NAMES = {
    ("convolution",): _convolved,
    _POOLS: _pooled,
    _RESIZED: _interpolated,
    ("pixel_shuffle", "pixel_unshuffle"): _shuffled,
    ("channel_shuffle", "native_channel_shuffle"): lambda call: call.first,
    _PADS: _padded,
    ("unfold",): _windows,
    ("im2col",): _columns,
    ("col2im",): _folded,
    _ATTENTION: _attended,
}
RULES = {name: rule for names, rule in _BY_NAMES.items() for name in names}

"""Bias, activation and additions: a program takes some channels of some pixels, so that a bias is read once for all of them."""

from functools import reduce

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, layout_of

_ELEMENTS = 4096  # of a program
_LINE = 256  # elements side by side, where all are treated alike


@triton.jit
def activation_kernel(
    x,  # (N, C, P) dense, in the order of memory that LAST says
    bias,  # (C,), or None
    slope,  # (1,), or None
    y,  # as x, or None
    y_bias,
    z,
    z_bias,
    out,  # (N, C, P)
    channels,  # C
    pixels,  # P
    out_n,  # strides of out
    out_c,
    out_p,
    LAST: tl.constexpr,  # channels_last
    SLOPE: tl.constexpr,  # a number, or None
    CHANNELS: tl.constexpr,  # of a program
    PIXELS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    tiles, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(pixels, PIXELS)
    if LAST:  # neighbours in memory are side by side
        tile, part = tl.program_id(0) % tiles, tl.program_id(0) // tiles % parts
        line = tile * CHANNELS + tl.arange(0, CHANNELS)
        c, p = line[None, :], (part * PIXELS + tl.arange(0, PIXELS))[:, None]
    else:
        part, tile = tl.program_id(0) % parts, tl.program_id(0) // parts % tiles
        line = tile * CHANNELS + tl.arange(0, CHANNELS)
        c, p = line[:, None], (part * PIXELS + tl.arange(0, PIXELS))[None, :]
    n = (tl.program_id(0) // tiles // parts).to(tl.int64)
    inside = (c < channels) & (p < pixels)
    at = n * channels * pixels + (p.to(tl.int64) * channels + c if LAST else c.to(tl.int64) * pixels + p)
    value = tl.load(x + at, mask=inside, other=0.0).to(WIDE)
    if bias is not None:
        value += tl.load(bias + c, mask=c < channels, other=0.0).to(WIDE)
    if slope is not None:
        value = tl.where(value > 0, value, value * tl.load(slope).to(WIDE))
    if SLOPE is not None:
        value = tl.where(value > 0, value, value * SLOPE)
    if y is not None:
        value += tl.load(y + at, mask=inside, other=0.0).to(WIDE)
    if y_bias is not None:
        value += tl.load(y_bias + c, mask=c < channels, other=0.0).to(WIDE)
    if z is not None:
        value += tl.load(z + at, mask=inside, other=0.0).to(WIDE)
    if z_bias is not None:
        value += tl.load(z_bias + c, mask=c < channels, other=0.0).to(WIDE)
    out_at = n * out_n + p.to(tl.int64) * out_p + c.to(tl.int64) * out_c
    tl.store(out + out_at, value.to(out.dtype.element_ty), mask=inside)


def launch(
    x: Tensor,
    bias: Tensor | None,
    slope: float | Tensor | None,
    added: list[tuple[Tensor, Tensor | None]],
    out: Tensor | None,
) -> Tensor:
    """As `activated`; the layout of x is kept."""
    if bias is None and slope is None and not added and out is None:
        return x
    layout = layout_of(x)
    dtype = reduce(torch.promote_types, (y.dtype for y, _ in added), x.dtype)
    dense = x.contiguous(memory_format=layout)
    if out is None:
        out = dense if dtype == x.dtype else torch.empty_like(dense, dtype=dtype)
    maps = [(y.contiguous(memory_format=layout), y_bias) for y, y_bias in added]
    n, c, h, w = x.shape
    rows, last = out.view(n, c, h * w), layout == torch.channels_last
    biased = bias is not None or any(y_bias is not None for _, y_bias in added)
    if not biased and x.numel() % _LINE == 0 and out.is_contiguous(memory_format=layout):
        n, c, h, w, last = 1, _LINE, x.numel() // _LINE, 1, True  # what lies in memory is all alike
        rows = out.as_strided((n, c, h), (x.numel(), 1, c))
    channels, pixels = block_of(c, h * w, torch.channels_last if last else torch.contiguous_format, _ELEMENTS)
    (y, y_bias), (z, z_bias) = (*maps, *[(None, None)] * (2 - len(maps)))
    with torch.cuda.device_of(x):
        activation_kernel[(n * blocks(c, channels) * blocks(h * w, pixels),)](
            dense,
            bias,
            slope if isinstance(slope, Tensor) else None,
            y,
            y_bias,
            z,
            z_bias,
            rows,
            c,
            h * w,
            *rows.stride(),
            LAST=last,
            SLOPE=None if isinstance(slope, Tensor) else slope,
            CHANNELS=channels,
            PIXELS=pixels,
            WIDE=tl.float64 if dtype == torch.float64 else tl.float32,
        )
    return out

"""Bilinear enlargement by two: a program makes two by two pixels of each pixel of its part of a row, whose neighbours it reads.

A new pixel is a quarter of a pixel away from the nearest one: it takes 3/4 of it, and 1/4 of the next one, in each dimension.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, layout_of

_ELEMENTS = 1024  # of a program, which reads nine times and writes four times as many


@triton.jit
def _halves(x, above, below, at, inside, WIDE: tl.constexpr):
    """A column's two new rows."""
    centre = 0.75 * tl.load(x + at, mask=inside, other=0.0).to(WIDE)
    first = centre + 0.25 * tl.load(x + at + above, mask=inside, other=0.0).to(WIDE)
    second = centre + 0.25 * tl.load(x + at + below, mask=inside, other=0.0).to(WIDE)
    return first, second


@triton.jit
def _put(out, added, at, value, inside):
    if added is not None:
        value += tl.load(added + at, mask=inside, other=0.0).to(value.dtype)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def enlarge_kernel(
    x,  # (N, C, H, W) dense, in the order of memory that LAST says
    added,  # (N, C, 2H, 2W) in the same order, or None
    out,  # as added
    channels,  # C
    height,  # H
    width,  # W
    LAST: tl.constexpr,  # channels_last
    CHANNELS: tl.constexpr,  # of a program
    COLUMNS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    tiles, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(width, COLUMNS)
    row = tl.program_id(0) // tiles // parts % height
    n = (tl.program_id(0) // tiles // parts // height).to(tl.int64)
    above = tl.where(row > 0, -1, 0).to(tl.int64)  # rows to the neighbours, which the border has in itself
    below = tl.where(row < height - 1, 1, 0).to(tl.int64)
    if LAST:
        tile, part = tl.program_id(0) % tiles, tl.program_id(0) // tiles % parts
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[None, :].to(tl.int64)
        column = (part * COLUMNS + tl.arange(0, COLUMNS))[:, None].to(tl.int64)
        line, step = width * channels, channels  # from a row, and from a column, to the next
        x += (n * height + row) * line + c
        first = (n * height + row) * line * 4 + c
    else:
        part, tile = tl.program_id(0) % parts, tl.program_id(0) // parts % tiles
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[:, None].to(tl.int64)
        column = (part * COLUMNS + tl.arange(0, COLUMNS))[None, :].to(tl.int64)
        line, step = width, 1
        x += ((n * channels + c) * height + row) * width
        first = ((n * channels + c) * height + row) * width * 4
    inside = (c < channels) & (column < width)
    left, right = tl.maximum(column - 1, 0), tl.minimum(column + 1, width - 1)
    left_1, left_2 = _halves(x, above * line, below * line, left * step, inside, WIDE)
    centre_1, centre_2 = _halves(x, above * line, below * line, column * step, inside, WIDE)
    right_1, right_2 = _halves(x, above * line, below * line, right * step, inside, WIDE)
    first += 2 * column * step
    _put(out, added, first, 0.25 * left_1 + 0.75 * centre_1, inside)
    _put(out, added, first + step, 0.75 * centre_1 + 0.25 * right_1, inside)
    _put(out, added, first + 2 * line, 0.25 * left_2 + 0.75 * centre_2, inside)
    _put(out, added, first + 2 * line + step, 0.75 * centre_2 + 0.25 * right_2, inside)


def launch(x: Tensor, added: Tensor | None) -> Tensor:
    """As `doubled`; the layout of x is kept."""
    n, c, h, w = x.shape
    layout = layout_of(x)
    if added is None:
        out = torch.empty(n, c, 2 * h, 2 * w, dtype=x.dtype, device=x.device, memory_format=layout)
    else:
        out = added = added.contiguous(memory_format=layout)
    channels, columns = block_of(c, w, layout, _ELEMENTS)
    with torch.cuda.device_of(x):
        enlarge_kernel[(n * h * blocks(c, channels) * blocks(w, columns),)](
            x.contiguous(memory_format=layout),
            added,
            out,
            c,
            h,
            w,
            LAST=layout == torch.channels_last,
            CHANNELS=channels,
            COLUMNS=columns,
            WIDE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        )
    return out

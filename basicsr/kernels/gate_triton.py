"""Gates: one pass over the maps, the borders of a smaller gate replicated by clamped positions, so that nothing is padded.

A program takes some channels of some pixels of a row, so that it divides once, not for every element.
"""

from functools import reduce

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, layout_of

_ELEMENTS = 4096  # of a program


@triton.jit
def gate_kernel(
    x,  # (N, C, H, W) dense, in the order of memory that LAST says
    gate,  # (N, C, h, w) of any strides
    added,  # as x, or None
    out,  # (N, C, H, W) of any strides
    channels,  # C
    height,  # H
    width,  # W
    gate_height,  # h
    gate_width,  # w
    gate_n,  # strides of the gate, 0 where it is the same for all
    gate_c,
    gate_h,
    gate_w,
    out_n,  # strides of out
    out_c,
    out_h,
    out_w,
    LAST: tl.constexpr,  # channels_last
    ONE: tl.constexpr,  # whether there is one gate for the map
    SIGMOID: tl.constexpr,
    CHANNELS: tl.constexpr,  # of a program
    COLUMNS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    tiles, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(width, COLUMNS)
    if LAST:  # neighbours in memory are side by side
        tile, part = tl.program_id(0) % tiles, tl.program_id(0) // tiles % parts
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[None, :]
        column = (part * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    else:
        part, tile = tl.program_id(0) % parts, tl.program_id(0) // parts % tiles
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[:, None]
        column = (part * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    row = tl.program_id(0) // tiles // parts % height
    n = (tl.program_id(0) // tiles // parts // height).to(tl.int64)
    inside = (c < channels) & (column < width)
    if LAST:
        at = (n * height + row) * width * channels + column.to(tl.int64) * channels + c
    else:
        at = (n * channels * height + row) * width + c.to(tl.int64) * height * width + column
    gate += n * gate_n + c.to(tl.int64) * gate_c
    if ONE:
        factor = tl.load(gate, mask=c < channels, other=0.0).to(WIDE)
    else:
        gate_row = tl.minimum(tl.maximum(row - (height - gate_height) // 2, 0), gate_height - 1).to(tl.int64)
        gate_column = tl.minimum(tl.maximum(column - (width - gate_width) // 2, 0), gate_width - 1).to(tl.int64)
        factor = tl.load(gate + gate_row * gate_h + gate_column * gate_w, mask=inside, other=0.0).to(WIDE)
    if SIGMOID:
        factor = 1 / (1 + tl.exp(-factor))
    value = tl.load(x + at, mask=inside, other=0.0).to(WIDE) * factor
    if added is not None:
        value += tl.load(added + at, mask=inside, other=0.0).to(WIDE)
    out_at = n * out_n + row.to(tl.int64) * out_h + column.to(tl.int64) * out_w + c.to(tl.int64) * out_c
    tl.store(out + out_at, value.to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, gate: Tensor, added: Tensor | None, sigmoid: bool, out: Tensor | None) -> Tensor:
    """As `gated`; the layout of x is kept."""
    n, c, h, w = x.shape
    layout = layout_of(x)
    dtype = reduce(torch.promote_types, (t.dtype for t in (x, gate, added) if t is not None))
    if out is None:
        out = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=layout)
    gate = gate.expand(n, c, -1, -1)
    one = gate.shape[-2:] == (1, 1)
    rows = out.view(n, c, 1, h * w) if one else out  # of one gate a map is a single row
    height, width = rows.shape[-2:]
    channels, columns = block_of(c, width, layout, _ELEMENTS)
    with torch.cuda.device_of(x):
        gate_kernel[(n * height * blocks(c, channels) * blocks(width, columns),)](
            x.contiguous(memory_format=layout),
            gate,
            None if added is None else added.contiguous(memory_format=layout),
            rows,
            c,
            height,
            width,
            *gate.shape[-2:],
            *gate.stride(),
            *rows.stride(),
            LAST=layout == torch.channels_last,
            ONE=one,
            SIGMOID=sigmoid,
            CHANNELS=channels,
            COLUMNS=columns,
            WIDE=tl.float64 if dtype == torch.float64 else tl.float32,
        )
    return out

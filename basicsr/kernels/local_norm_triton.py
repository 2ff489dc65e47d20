"""Local instance norm: running sums of values and squares down the columns, those along the rows, and the norm by them.

All maps are channels_last. Sums are float64: squares of large values far away leave no trace in those of a flat region.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.box_mean_triton import slide, walk
from basicsr.kernels.channel_mean_triton import launch as channel_mean
from basicsr.kernels.layout import block_of, blocks

_ELEMENTS = 2048  # of a program


@triton.jit
def local_norm_sums_kernel(
    x,  # (N, H, W * C)
    centre,  # (N, C) float32
    sums,  # (N, count, W * C) float64: of what differs from the centre
    squares,  # and of its squares
    channels,  # C
    length,  # H
    inner,  # W * C
    window,
    count,  # windows: length - window + 1
    WINDOW: tl.constexpr,  # steps that cover the window
    SEGMENT: tl.constexpr,  # steps of a program
    ROWS: tl.constexpr,  # of a step
    LANES: tl.constexpr,
):
    across, along = tl.cdiv(inner, LANES), tl.cdiv(count, SEGMENT * ROWS)
    lane = (tl.program_id(0) % across * LANES + tl.arange(0, LANES))[None, :]
    first = tl.program_id(0) // across % along * SEGMENT * ROWS
    n = (tl.program_id(0) // across // along).to(tl.int64)
    row = tl.arange(0, ROWS)[:, None]
    real = lane < inner
    middle = tl.load(centre + n * channels + lane % channels, mask=real, other=0.0).to(tl.float64)
    x += (n * length + first) * inner + lane
    sums += (n * count + first) * inner + lane
    squares += (n * count + first) * inner + lane
    total, total_2 = tl.zeros((1, LANES), tl.float64), tl.zeros((1, LANES), tl.float64)
    for step in range(0, WINDOW):
        i = step * ROWS + row
        inside = (i < window) & real
        part = tl.where(inside, tl.load(x + i.to(tl.int64) * inner, mask=inside, other=0.0).to(tl.float64) - middle, 0.0)
        total += tl.sum(part, 0)[None, :]
        total_2 += tl.sum(part * part, 0)[None, :]
    for step in range(0, SEGMENT):
        i = step * ROWS + row
        moves = (i > 0) & (first + i < count) & real
        leaves = tl.load(x + (i - 1).to(tl.int64) * inner, mask=moves, other=0.0).to(tl.float64) - middle
        enters = tl.load(x + (i - 1 + window).to(tl.int64) * inner, mask=moves, other=0.0).to(tl.float64) - middle
        changes, changes_2 = enters - leaves, enters * enters - leaves * leaves
        at = i.to(tl.int64) * inner
        tl.store(sums + at, total + tl.cumsum(changes, 0), mask=(first + i < count) & real)
        tl.store(squares + at, total_2 + tl.cumsum(changes_2, 0), mask=(first + i < count) & real)
        total += tl.sum(changes, 0)[None, :]
        total_2 += tl.sum(changes_2, 0)[None, :]


@triton.jit
def local_norm_kernel(
    x,  # (N, H, W, C)
    centre,  # (N, C) float32
    means,  # (N, h, w, C) float64
    squares,  # (N, h, w, C) float64
    weight,  # (C,), or None
    bias,  # (C,), or None
    out,  # as x
    channels,  # C
    height,  # H
    width,  # W
    rows,  # h
    columns,  # w
    eps,
    LIMIT: tl.constexpr,  # the largest number of the type of x
    CHANNELS: tl.constexpr,  # of a program
    COLUMNS: tl.constexpr,  # of a program
):
    tiles, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(width, COLUMNS)
    c = (tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    column = (tl.program_id(0) // tiles % parts * COLUMNS + tl.arange(0, COLUMNS))[:, None]
    row = tl.program_id(0) // tiles // parts % height
    n = (tl.program_id(0) // tiles // parts // height).to(tl.int64)
    inside = (c < channels) & (column < width)
    own_row = tl.minimum(tl.maximum(row - (height - rows) // 2, 0), rows - 1)
    own_column = tl.minimum(tl.maximum(column - (width - columns) // 2, 0), columns - 1)
    at = ((n * rows + own_row) * columns + own_column) * channels + c
    mean = tl.load(means + at, mask=inside, other=0.0)
    square = tl.load(squares + at, mask=inside, other=0.0)
    variance = tl.maximum((square - mean * mean).to(tl.float32), 0.0)
    at = ((n * height + row) * width + column) * channels + c
    middle = tl.load(centre + n * channels + c, mask=c < channels, other=0.0)
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float64) - (mean + middle)
    value = value.to(tl.float32) / tl.sqrt(variance + eps)
    if weight is not None:
        value *= tl.load(weight + c, mask=c < channels, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + c, mask=c < channels, other=0.0).to(tl.float32)
    value = tl.minimum(tl.maximum(value, -LIMIT), LIMIT)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, window: tuple[int, int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """As `local_norm`, of a window not larger than the map; the result is channels_last."""
    n, c, h, w = x.shape
    count, columns = h - window[0] + 1, w - window[1] + 1
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    weight, bias = (p if p is None else p.contiguous() for p in (weight, bias))
    centre = channel_mean(x).float()
    sums = torch.empty(2, n, count, w, c, dtype=torch.float64, device=x.device)
    moments = torch.empty(2, n, count, columns, c, dtype=torch.float64, device=x.device)
    with torch.cuda.device_of(x):
        programs, constants = walk(n, h, w * c, window[0], x.element_size())
        constants["num_warps"] *= 2  # float64 takes twice the registers
        local_norm_sums_kernel[(programs,)](x, centre, *sums, c, h, w * c, window[0], count, **constants)
        slide(sums, moments, 2 * n * count, w, c, window[1], window[0] * window[1])
        channels, pixels = block_of(c, w, torch.channels_last, _ELEMENTS)
        local_norm_kernel[(n * h * blocks(c, channels) * blocks(w, pixels),)](
            x,
            centre,
            *moments,
            weight,
            bias,
            out,
            c,
            h,
            w,
            count,
            columns,
            eps,
            LIMIT=torch.finfo(x.dtype).max,
            CHANNELS=channels,
            COLUMNS=pixels,
        )
    return out

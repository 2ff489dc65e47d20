"""Means over every window: running sums down the columns, then along the rows, by the same kernel.

Lanes are neighbours in memory, and each walks along the dimension that is summed, several steps at a time, whose loads do not
wait for one another. A program takes a segment of the walk, whose first window it sums up by itself: that reads large windows
again for each segment, so there are as many programs as keep the card busy, and no more. Few lanes with many rows make enough
programs of a map that is walked in one piece.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, power_of_2, steps, tile

_LANES = 64
_ELEMENTS = 4096  # of a step, of four bytes at most
_WARPS = 4
_BUSY = 1 << 22  # bytes that the loads of a step of all programs ask for: about as many as are under way at once


@triton.jit
def sliding_sum_kernel(
    x,  # (outer, length, inner), dense
    out,  # (outer, count, inner), dense
    area,  # what the sums are divided by
    length,
    inner,
    window,
    count,  # windows: length - window + 1
    WINDOW: tl.constexpr,  # steps that cover the window
    SEGMENT: tl.constexpr,  # steps of a program
    ONE: tl.constexpr,  # whether there is a single window
    ROWS: tl.constexpr,  # of a step
    LANES: tl.constexpr,
    WIDE: tl.constexpr,  # the type of the sums
):
    across, along = tl.cdiv(inner, LANES), tl.cdiv(count, SEGMENT * ROWS)
    lane = tl.program_id(0) % across * LANES + tl.arange(0, LANES)
    first = tl.program_id(0) // across % along * SEGMENT * ROWS
    outer = (tl.program_id(0) // across // along).to(tl.int64)
    real = (lane < inner)[None, :]
    row = tl.arange(0, ROWS)[:, None]
    x += (outer * length + first) * inner + lane[None, :]
    out += (outer * count + first) * inner + lane[None, :]
    scale = (tl.zeros((1, 1), WIDE) + 1) / area
    parts = tl.zeros((ROWS, LANES), WIDE)
    for step in range(0, WINDOW):
        i = step * ROWS + row
        parts += tl.load(x + i.to(tl.int64) * inner, mask=(i < window) & real, other=0.0).to(WIDE)
    total = tl.sum(parts, 0)[None, :]
    if ONE:
        tl.store(out, (total * scale).to(out.dtype.element_ty), mask=real)
    for step in range(0, 0 if ONE else SEGMENT):
        i = step * ROWS + row
        moves = (i > 0) & (first + i < count) & real  # nothing has left the first window
        leaves = tl.load(x + (i - 1).to(tl.int64) * inner, mask=moves, other=0.0).to(WIDE)
        enters = tl.load(x + (i - 1 + window).to(tl.int64) * inner, mask=moves, other=0.0).to(WIDE)
        changes = enters - leaves
        sums = total + tl.cumsum(changes, 0)
        total += tl.sum(changes, 0)[None, :]
        tl.store(out + i.to(tl.int64) * inner, (sums * scale).to(out.dtype.element_ty), mask=(first + i < count) & real)


def launch(x: Tensor, k1: int, k2: int) -> Tensor:
    """As `box_mean`, of a window not larger than the map; the result is channels_last."""
    n, c, h, w = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.contiguous(memory_format=torch.channels_last)
    sums = torch.empty(n, h - k1 + 1, w, c, dtype=wide, device=x.device)
    means = torch.empty(n, h - k1 + 1, w - k2 + 1, c, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        slide(x, sums, n, h, w * c, k1, 1)
        slide(sums, means, n * (h - k1 + 1), w, c, k2, k1 * k2)
    return means.permute(0, 3, 1, 2)


def slide(x: Tensor, out: Tensor, outer: int, length: int, inner: int, window: int, area: int) -> None:
    """Sums over all windows of x (outer, length, inner), divided by `area`, into out (outer, length - window + 1, inner)."""
    programs, constants = walk(outer, length, inner, window, x.element_size())
    wide = tl.float64 if x.dtype == torch.float64 else tl.float32
    count = length - window + 1
    sliding_sum_kernel[(programs,)](x, out, area, length, inner, window, count, ONE=count == 1, WIDE=wide, **constants)


def walk(outer: int, length: int, inner: int, window: int, itemsize: int) -> tuple[int, dict[str, int]]:
    """How many programs walk, and the constants that say how; of elements of so many bytes."""
    count = length - window + 1
    lanes = max(2, tile(inner, _LANES))  # the interpreter of Triton 3.0 takes a mask of one False for none
    rows = min(_ELEMENTS * 4 // max(4, itemsize) // lanes, power_of_2(max(window, count)))
    segments = min(blocks(_BUSY, outer * inner * rows * itemsize), blocks(count, rows))
    segment = steps(blocks(blocks(count, segments), rows))
    programs = outer * blocks(count, segment * rows) * blocks(inner, lanes)
    window_steps = steps(blocks(window, rows))
    return programs, {"WINDOW": window_steps, "SEGMENT": segment, "ROWS": rows, "LANES": lanes, "num_warps": _WARPS}

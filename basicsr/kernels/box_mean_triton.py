"""Means over every window: running sums down the columns, then along the rows, by the same kernel.

Lanes are neighbours in memory, and each walks along the dimension that is summed. A program takes a segment of the walk, whose
first window it sums up by itself.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, power_of_2, steps

_LANES = 512
_SEGMENT = 64  # the least: a segment's first sum costs a window


@triton.jit
def _kernel(
    x,  # (outer, length, inner), dense
    out,  # (outer, count, inner), dense
    scale,  # of the sums
    length,
    inner,
    window,
    count,  # windows: length - window + 1
    WINDOW: tl.constexpr,  # a bound of window
    SEGMENT: tl.constexpr,  # windows of a program
    LANES: tl.constexpr,
    WIDE: tl.constexpr,  # the type of the sums
):
    across, along = tl.cdiv(inner, LANES), tl.cdiv(count, SEGMENT)
    lane = tl.program_id(0) % across * LANES + tl.arange(0, LANES)
    first = tl.program_id(0) // across % along * SEGMENT
    outer = (tl.program_id(0) // across // along).to(tl.int64)
    windows = tl.where(lane < inner, count - first, 0)  # of a lane: none beyond the last lane, fewer in the last segment
    rows = tl.where(lane < inner, window, 0)
    x += (outer * length + first) * inner + lane
    out += (outer * count + first) * inner + lane
    total = tl.zeros((LANES,), WIDE)
    for i in range(0, WINDOW):
        total += tl.load(x + tl.cast(i, tl.int64) * inner, mask=i < rows, other=0.0).to(WIDE)
    tl.store(out, (total * scale).to(out.dtype.element_ty), mask=windows > 0)
    for i in range(1, SEGMENT):
        inside = i < windows
        leaves = tl.load(x + tl.cast(i - 1, tl.int64) * inner, mask=inside, other=0.0).to(WIDE)
        enters = tl.load(x + (tl.cast(i - 1, tl.int64) + window) * inner, mask=inside, other=0.0).to(WIDE)
        total += enters - leaves
        tl.store(out + tl.cast(i, tl.int64) * inner, (total * scale).to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, k1: int, k2: int) -> Tensor:
    """As `box_mean`, of a window not larger than the map; the result is channels_last."""
    n, c, h, w = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.contiguous(memory_format=torch.channels_last)
    sums = torch.empty(n, h - k1 + 1, w, c, dtype=wide, device=x.device)
    means = torch.empty(n, h - k1 + 1, w - k2 + 1, c, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _slide(x, sums, n, h, w * c, k1, 1.0)
        _slide(sums, means, n * (h - k1 + 1), w, c, k2, 1.0 / (k1 * k2))
    return means.permute(0, 3, 1, 2)


def _slide(x: Tensor, out: Tensor, outer: int, length: int, inner: int, window: int, scale: float) -> None:
    count = length - window + 1
    lanes = min(_LANES, max(2, power_of_2(inner)))  # the interpreter of Triton 3.0 takes a mask of one False for none
    segment = steps(min(count, max(window // 2, _SEGMENT)))
    _kernel[(outer * blocks(count, segment) * blocks(inner, lanes),)](
        x,
        out,
        scale,
        length,
        inner,
        window,
        count,
        WINDOW=steps(window),
        SEGMENT=segment,
        LANES=lanes,
        WIDE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        num_warps=max(1, min(4, lanes // 64)),
    )

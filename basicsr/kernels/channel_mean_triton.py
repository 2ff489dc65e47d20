"""Means over a map: a program adds some channels of a chunk of pixels, and torch adds the chunks, always in the same order."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, steps

_ELEMENTS = 4096  # of a step
_STEPS = 16  # of a program


@triton.jit
def channel_sum_kernel(
    x,  # (N, P, C), channels side by side
    out,  # (N, parts, C) dense
    x_n,  # strides of x
    x_p,
    channels,  # C
    pixels,  # P
    parts,
    CHANNELS: tl.constexpr,  # of a program
    PIXELS: tl.constexpr,  # of a step
    STEPS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the sums
):
    tiles = tl.cdiv(channels, CHANNELS)
    part = tl.program_id(0) // tiles % parts
    n = (tl.program_id(0) // tiles // parts).to(tl.int64)
    line = tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)
    c = line[None, :]
    first = (part * STEPS * PIXELS + tl.arange(0, PIXELS))[:, None]
    x += n * x_n
    total = tl.zeros((PIXELS, CHANNELS), WIDE)
    for step in range(0, STEPS):
        p = first + step * PIXELS
        total += tl.load(x + p.to(tl.int64) * x_p + c, mask=(p < pixels) & (c < channels), other=0.0).to(WIDE)
    tl.store(out + (n * parts + part) * channels + line, tl.sum(total, 0) / pixels, mask=line < channels)


def launch(x: Tensor) -> Tensor:
    """As `channel_mean`, of a map whose channels are neighbours in memory."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    channels, pixels = block_of(c, h * w, torch.channels_last, _ELEMENTS)
    count = min(_STEPS, steps(blocks(h * w, pixels)))
    parts = blocks(h * w, pixels * count)
    wide = torch.promote_types(x.dtype, torch.float32)
    means = torch.empty(n, parts, c, dtype=wide, device=x.device)
    with torch.cuda.device_of(x):
        channel_sum_kernel[(n * parts * blocks(c, channels),)](
            rows,
            means,
            *rows.stride()[:2],
            c,
            h * w,
            parts,
            CHANNELS=channels,
            PIXELS=pixels,
            STEPS=count,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
        )
    return means.sum(1).to(x.dtype)[..., None, None]

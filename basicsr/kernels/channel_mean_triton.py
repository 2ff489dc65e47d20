"""Means over a map: a program adds some channels of a chunk of pixels; and the chunks are added always in the same order, by
torch, or by the kernel of a layer, where a program makes some outputs of all the means.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, power_of_2, steps

_ELEMENTS = 4096  # of a step
_STEPS = 64  # of a program, at most
_PROGRAMS = 512  # that keep a GPU busy
_PARTS = 8192  # elements of a step of the layer
_OUTPUTS = 32  # of the layer, of a program


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


@triton.jit
def channel_layer_kernel(
    means,  # (N, parts, C) dense: to be added
    weight,  # (K, C) dense
    bias,  # (K,), or None
    out,  # (N, K) dense
    parts,
    channels,  # C
    outputs,  # K
    STEPS: tl.constexpr,  # that cover the parts
    PARTS: tl.constexpr,  # of a step
    CHANNELS: tl.constexpr,  # C or more, a power of two
    OUTPUTS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the sums
):
    tiles = tl.cdiv(outputs, OUTPUTS)
    n = (tl.program_id(0) // tiles).to(tl.int64)
    k = tl.program_id(0) % tiles * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.arange(0, CHANNELS)[None, :]
    real, made = c < channels, k < outputs
    total = tl.zeros((PARTS, CHANNELS), WIDE)
    for step in range(0, STEPS):
        part = (step * PARTS + tl.arange(0, PARTS))[:, None]
        total += tl.load(means + (n * parts + part) * channels + c, mask=(part < parts) & real, other=0.0)
    matrix = tl.load(weight + k[:, None] * channels + c, mask=made[:, None] & real, other=0.0).to(WIDE)
    value = tl.sum(matrix * tl.sum(total, 0)[None, :], 1)
    if bias is not None:
        value += tl.load(bias + k, mask=made, other=0.0).to(WIDE)
    tl.store(out + n * outputs + k, value.to(out.dtype.element_ty), mask=made)


def launch(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """As `channel_mean`, or with a weight (K, C) as `channel_mean_layer`, of a map whose channels are neighbours in memory."""
    with torch.cuda.device_of(x):
        means = _means(x)
        if weight is None:
            return means.sum(1).to(x.dtype)[..., None, None]
        n, parts, c = means.shape
        outputs, channels = weight.shape[0], power_of_2(c)
        rows, some = max(1, min(_PARTS // channels, power_of_2(parts))), max(2, min(_OUTPUTS, power_of_2(outputs)))
        out = torch.empty(n, outputs, 1, 1, dtype=x.dtype, device=x.device)
        channel_layer_kernel[(n * blocks(outputs, some),)](
            means,
            weight,
            bias,
            out,
            parts,
            c,
            outputs,
            STEPS=steps(blocks(parts, rows)),
            PARTS=rows,
            CHANNELS=max(2, channels),
            OUTPUTS=some,
            WIDE=tl.float64 if means.dtype == torch.float64 else tl.float32,
            num_warps=8,
        )
    return out


def _means(x: Tensor) -> Tensor:
    """(N, parts, C): of each part of the map its share of the means."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)
    channels, pixels = block_of(c, h * w, torch.channels_last, _ELEMENTS)
    programs = n * blocks(c, channels) * blocks(h * w, pixels)
    count = steps(min(_STEPS, blocks(programs, _PROGRAMS)))
    parts = blocks(h * w, pixels * count)
    wide = torch.promote_types(x.dtype, torch.float32)
    means = torch.empty(n, parts, c, dtype=wide, device=x.device)
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
        num_warps=8,
    )
    return means

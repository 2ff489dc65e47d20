"""Excitation: a program keeps some pixels' squeezed channels on the chip, which it finds by clamped positions.

It makes the gates of some channels at a time by a product, summed up in float32, and applies them at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, evenly_spaced, pixel_step, power_of_2, tile

_PIXELS = 64  # of a program
_CHANNELS = 64  # of a step, at most
_WARPS = 4


@triton.jit
def excitation_kernel(
    x,  # (N, C, H, W), its channels neighbours in memory
    squeezed,  # (N, S, h, w) of any strides
    weight,  # (C, S), dense
    bias,  # (C,), or None
    added,  # (N, C, H, W), its channels neighbours
    out,  # (N, C, H, W), its channels neighbours
    x_step,  # from pixel to pixel
    added_step,
    squeezed_n,  # strides of what is squeezed, 0 along a side of one pixel
    squeezed_c,
    squeezed_h,
    squeezed_w,
    out_n,  # strides of out
    out_h,
    out_w,
    inputs,  # S
    channels,  # C
    height,  # H
    width,  # W
    squeezed_height,  # h
    squeezed_width,  # w
    parts,  # programs of an image
    PIXELS: tl.constexpr,  # of a program
    INPUTS: tl.constexpr,  # S or more, a power of two
    CHANNELS: tl.constexpr,  # of a step
    STEPS: tl.constexpr,  # that cover C
    FACTOR: tl.constexpr,  # the type that is multiplied
):
    n = (tl.program_id(0) // parts).to(tl.int64)
    i = tl.program_id(0) % parts * PIXELS + tl.arange(0, PIXELS)
    inside = i < height * width
    row, column = i // width, i % width
    small_row = tl.minimum(tl.maximum(row - (height - squeezed_height) // 2, 0), squeezed_height - 1).to(tl.int64)
    small_column = tl.minimum(tl.maximum(column - (width - squeezed_width) // 2, 0), squeezed_width - 1)
    s = tl.arange(0, INPUTS)
    place = squeezed + n * squeezed_n + (small_row * squeezed_h + small_column.to(tl.int64) * squeezed_w)[:, None]
    place += s.to(tl.int64)[None, :] * squeezed_c
    factor = tl.load(place, mask=inside[:, None] & (s < inputs)[None, :], other=0.0)
    factor = tl.maximum(factor.to(tl.float32), 0.0).to(factor.dtype).to(FACTOR)
    pixel = n * height * width + i
    x += (pixel * x_step)[:, None]
    added += (pixel * added_step)[:, None]
    out += (n * out_n + row.to(tl.int64) * out_h + column.to(tl.int64) * out_w)[:, None]
    for step in range(0, STEPS):
        c = step * CHANNELS + tl.arange(0, CHANNELS)
        real = c < channels
        both = inside[:, None] & real[None, :]
        value = tl.load(x + c[None, :], mask=both, other=0.0)  # under way while the gate is made
        residual = tl.load(added + c[None, :], mask=both, other=0.0)
        matrix = tl.load(weight + c[None, :] * inputs + s[:, None], mask=real[None, :] & (s < inputs)[:, None], other=0.0)
        gate = tl.dot(factor, matrix.to(FACTOR), input_precision="ieee")
        if bias is not None:
            gate += tl.load(bias + c, mask=real, other=0.0).to(tl.float32)[None, :]
        value = residual.to(tl.float32) + value.to(tl.float32) / (1 + tl.exp(-gate))
        tl.store(out + c[None, :], value.to(out.dtype.element_ty), mask=both)


def launch(x: Tensor, squeezed: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor, out: Tensor | None) -> Tensor:
    """As `excited`, of a map in half precision whose channels are neighbours in memory; weight: (C, S), dense."""
    n, c, h, w = x.shape
    if out is None:
        out = torch.empty(n, h, w, c, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    x, added = evenly_spaced(x), evenly_spaced(added)
    inputs, channels, parts = weight.shape[1], tile(c, _CHANNELS), blocks(h * w, _PIXELS)
    with torch.cuda.device_of(x):
        excitation_kernel[(n * parts,)](
            x,
            squeezed,
            weight,
            bias,
            added,
            out,
            pixel_step(x),
            pixel_step(added),
            *(0 if size == 1 else stride for size, stride in zip(squeezed.shape, squeezed.stride(), strict=True)),
            out.stride(0),
            out.stride(2),
            out.stride(3),
            inputs,
            c,
            h,
            w,
            *squeezed.shape[-2:],
            parts,
            PIXELS=_PIXELS,
            INPUTS=max(16, power_of_2(inputs)),
            CHANNELS=max(16, channels),
            STEPS=blocks(c, max(16, channels)),
            FACTOR=tl.float32 if not x.is_cuda else tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16,
            num_warps=_WARPS,
        )
    return out

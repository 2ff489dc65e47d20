"""Gradients of one gate for a map: a program walks over some pixels of some channels, and adds up what they say of the gate;
torch adds the programs. So the map and the gradient are read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import block_of, blocks, layout_of, power_of_2

_ELEMENTS = 2048  # of a step
_PROGRAMS = 1024  # about as many as an H100 runs at once
_STEPS = 16  # of a program, at most


@triton.jit
def gate_gradient_kernel(
    x,  # (N, C, P) map, its rows one after the other
    gate,  # (N, C), of any strides
    grad,  # (N, C, P) of the product
    out,  # (N, C, P) gradient of x
    sums,  # (N, chunks, C) dense: gradient of the gate
    x_n,  # strides of x
    x_c,
    x_p,
    gate_n,  # strides of the gate, 0 where it is the same for all
    gate_c,
    grad_n,  # strides of grad
    grad_c,
    grad_p,
    out_n,  # strides of out
    out_c,
    out_p,
    pixels,  # P
    channels,  # C
    chunks,  # of pixels, each a program's
    PIXELS: tl.constexpr,  # of a step
    CHANNELS: tl.constexpr,  # of a program
    STEPS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    tiles = tl.cdiv(channels, CHANNELS)
    c = (tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    chunk = tl.program_id(0) // tiles % chunks
    first = chunk.to(tl.int64) * (STEPS * PIXELS)
    left = (pixels - first).to(tl.int32)
    n = (tl.program_id(0) // tiles // chunks).to(tl.int64)
    real = c < channels
    factor = tl.load(gate + n * gate_n + c * gate_c, mask=real, other=0.0).to(WIDE)[None, :]
    x += n * x_n + first * x_p + c[None, :] * x_c
    grad += n * grad_n + first * grad_p + c[None, :] * grad_c
    out += n * out_n + first * out_p + c[None, :] * out_c
    of_gate = tl.zeros((PIXELS, CHANNELS), WIDE)
    for step in range(0, STEPS):
        p = step * PIXELS + tl.arange(0, PIXELS)
        inside = (p < left)[:, None] & real[None, :]
        values = tl.load(x + p[:, None] * x_p, mask=inside, other=0.0).to(WIDE)
        slope = tl.load(grad + p[:, None] * grad_p, mask=inside, other=0.0).to(WIDE)
        tl.store(out + p[:, None] * out_p, (slope * factor).to(out.dtype.element_ty), mask=inside)
        of_gate += slope * values
    tl.store(sums + (n * chunks + chunk) * channels + c, tl.sum(of_gate, 0), mask=real)


def launch(x: Tensor, gate: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """As `gate_gradient`; the layout of x is kept."""
    n, c, h, w = x.shape
    layout, wide = layout_of(x), torch.promote_types(x.dtype, torch.float32)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout)
    rows, gates, slopes, out_rows = x.flatten(2), gate.expand(n, c, 1, 1).flatten(1), grad.flatten(2), out.flatten(2)
    channels, pixels = block_of(c, h * w, layout, _ELEMENTS)
    steps = min(_STEPS, power_of_2(blocks(n * blocks(c, channels) * blocks(h * w, pixels), _PROGRAMS)))
    chunks = blocks(h * w, pixels * steps)
    sums = torch.empty(n, chunks, c, dtype=wide, device=x.device)
    with torch.cuda.device_of(x):
        gate_gradient_kernel[(n * chunks * blocks(c, channels),)](
            rows,
            gates,
            slopes,
            out_rows,
            sums,
            *rows.stride(),
            *gates.stride(),
            *slopes.stride(),
            *out_rows.stride(),
            h * w,
            c,
            chunks,
            PIXELS=pixels,
            CHANNELS=channels,
            STEPS=steps,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
        )
    each = sums.sum((0, 1) if len(gate) == 1 else 1)
    return out, each.view(gate.shape).to(gate.dtype)

"""Gradients of the layer norm over channels: a program walks over some pixels, keeps all their channels in registers, and adds
up what they say of the weight and the bias; torch adds the programs. So the map and its gradient are read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layer_norm_gradient import Gradients
from basicsr.kernels.layout import blocks, layout_of, power_of_2

_ELEMENTS = 2048  # of a step
_PROGRAMS = 1024  # about as many as an H100 runs at once
_STEPS = 16  # of a program, at most


@triton.jit
def layer_norm_gradient_kernel(
    x,  # (N, C, P) map, its rows one after the other
    weight,  # (C,)
    grad,  # (N, C, P) of the result
    out,  # (N, C, P) gradient of x
    sums,  # (programs, 2, C) dense: gradients of the weight and of the bias, the latter not written unless CENTRED
    x_n,  # strides of x
    x_c,
    x_p,
    grad_n,  # strides of grad
    grad_c,
    grad_p,
    out_n,  # strides of out
    out_c,
    out_p,
    pixels,  # P
    channels,  # C
    eps,
    CENTRED: tl.constexpr,  # whether the mean was subtracted and a bias added
    PIXELS: tl.constexpr,  # of a step
    CHANNELS: tl.constexpr,  # C or more, a power of two
    STEPS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the statistics and sums
):
    count = tl.cdiv(pixels, PIXELS * STEPS)
    n = (tl.program_id(0) // count).to(tl.int64)
    first = (tl.program_id(0) % count).to(tl.int64) * (PIXELS * STEPS)
    left = (pixels - first).to(tl.int32)
    c = tl.arange(0, CHANNELS).to(tl.int64)
    real = c < channels
    factor = tl.load(weight + c, mask=real, other=0.0).to(WIDE)[None, :]
    x += n * x_n + first * x_p + c[None, :] * x_c
    grad += n * grad_n + first * grad_p + c[None, :] * grad_c
    out += n * out_n + first * out_p + c[None, :] * out_c
    of_weight = tl.zeros((PIXELS, CHANNELS), WIDE)
    of_bias = tl.zeros((PIXELS, CHANNELS), WIDE)
    for step in range(0, STEPS):
        p = step * PIXELS + tl.arange(0, PIXELS)
        inside = (p < left)[:, None] & real[None, :]
        values = tl.load(x + p[:, None] * x_p, mask=inside, other=0.0).to(WIDE)
        slope = tl.load(grad + p[:, None] * grad_p, mask=inside, other=0.0).to(WIDE)
        normal = tl.where(real[None, :], values - (tl.sum(values, 1) / channels)[:, None], 0.0)
        scale = (1 / tl.sqrt(tl.sum(normal * normal, 1) / channels + eps))[:, None]
        normal *= scale
        result = normal if CENTRED else values * scale
        weighted = slope * factor
        change = weighted - normal * (tl.sum(weighted * result, 1) / channels)[:, None]
        if CENTRED:
            change -= (tl.sum(weighted, 1) / channels)[:, None]
            of_bias += slope
        tl.store(out + p[:, None] * out_p, (scale * change).to(out.dtype.element_ty), mask=inside)
        of_weight += slope * result
    sums += tl.program_id(0).to(tl.int64) * 2 * channels
    tl.store(sums + c, tl.sum(of_weight, 0), mask=real)
    if CENTRED:
        tl.store(sums + channels + c, tl.sum(of_bias, 0), mask=real)


def launch(x: Tensor, weight: Tensor, grad: Tensor, eps: float, centred: bool) -> Gradients:
    """As `layer_norm_gradient`; the layout of x is kept."""
    n, c, h, w = x.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=layout_of(x))
    maps = x.flatten(2), grad.flatten(2), out.view(n, c, h * w)
    block = power_of_2(c)
    pixels = max(1, _ELEMENTS // block)
    steps = min(_STEPS, power_of_2(blocks(n * blocks(h * w, pixels), _PROGRAMS)))
    programs = n * blocks(h * w, pixels * steps)
    sums = torch.empty(programs, 2, c, dtype=wide, device=x.device)
    with torch.cuda.device_of(x):
        layer_norm_gradient_kernel[(programs,)](
            maps[0],
            weight.contiguous(),
            maps[1],
            maps[2],
            sums,
            *(stride for y in maps for stride in y.stride()),
            h * w,
            c,
            eps,
            CENTRED=centred,
            PIXELS=pixels,
            CHANNELS=block,
            STEPS=steps,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
        )
    parts = (sums if centred else sums[:, :1]).sum(0).to(weight.dtype)
    return out, parts[0], parts[1] if centred else None

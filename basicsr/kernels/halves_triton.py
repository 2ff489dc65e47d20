"""Gates of one half of a map's channels by the other, and their gradient: one pass over the map each."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.depthwise_triton import share_below
from basicsr.kernels.layout import block_of, blocks, layout_of

_ELEMENTS = 2048  # of the result, for a program


@triton.jit
def halves_kernel(
    x,  # (N, 2C, P) map, its rows one after the other
    grad,  # (N, C, P) of the result; not read unless BACK
    out,  # (N, C, P); BACK: (N, 2C, P), the gradient of x
    x_n,  # strides of x
    x_c,
    x_p,
    grad_n,  # strides of grad
    grad_c,
    grad_p,
    out_n,  # strides of out
    out_c,
    out_p,
    channels,  # C
    pixels,  # P
    GELU: tl.constexpr,
    BACK: tl.constexpr,
    LAST: tl.constexpr,  # channels_last
    CHANNELS: tl.constexpr,  # of a program
    PIXELS: tl.constexpr,  # of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    tiles, parts = tl.cdiv(channels, CHANNELS), tl.cdiv(pixels, PIXELS)
    if LAST:  # neighbours in memory are side by side
        tile, part = tl.program_id(0) % tiles, tl.program_id(0) // tiles % parts
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[None, :].to(tl.int64)
        p = (part * PIXELS + tl.arange(0, PIXELS))[:, None].to(tl.int64)
    else:
        part, tile = tl.program_id(0) % parts, tl.program_id(0) // parts % tiles
        c = (tile * CHANNELS + tl.arange(0, CHANNELS))[:, None].to(tl.int64)
        p = (part * PIXELS + tl.arange(0, PIXELS))[None, :].to(tl.int64)
    n = (tl.program_id(0) // tiles // parts).to(tl.int64)
    inside = (c < channels) & (p < pixels)
    x += n * x_n + p * x_p
    out += n * out_n + p * out_p
    first = tl.load(x + c * x_c, mask=inside, other=0.0).to(WIDE)
    second = tl.load(x + (c + channels) * x_c, mask=inside, other=0.0).to(WIDE)
    if GELU:
        bell = tl.exp(-0.5 * first * first)
        below = share_below(first, bell)
        value = first * below
    else:
        value = first
    if BACK:
        slope = tl.load(grad + n * grad_n + c * grad_c + p * grad_p, mask=inside, other=0.0).to(WIDE)
        of_first = slope * second
        if GELU:
            of_first *= below + first * bell * 0.3989422804014327  # 1 / sqrt(2 pi)
        tl.store(out + c * out_c, of_first.to(out.dtype.element_ty), mask=inside)
        tl.store(out + (c + channels) * out_c, (slope * value).to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(out + c * out_c, (value * second).to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, gelu: bool, grad: Tensor | None = None) -> Tensor:
    """As `gated_halves`, or with `grad` as `halves_gradient`; the layout of x is kept."""
    n, wide, h, w = x.shape
    layout = layout_of(x)
    out = torch.empty(n, wide // 2 if grad is None else wide, h, w, dtype=x.dtype, device=x.device, memory_format=layout)
    maps = [y.flatten(2) for y in (x, x if grad is None else grad, out)]
    channels, pixels = block_of(wide // 2, h * w, layout, _ELEMENTS)
    with torch.cuda.device_of(x):
        halves_kernel[(n * blocks(wide // 2, channels) * blocks(h * w, pixels),)](
            *maps,
            *(stride for y in maps for stride in y.stride()),
            wide // 2,
            h * w,
            GELU=gelu,
            BACK=grad is not None,
            LAST=layout == torch.channels_last,
            CHANNELS=channels,
            PIXELS=pixels,
            WIDE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        )
    return out

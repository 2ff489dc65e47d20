"""Layer norm over channels: a program keeps all channels of some pixels in registers, so that the map is read once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, layout_of, power_of_2

_ELEMENTS = 4096  # of a program


@triton.jit
def layer_norm_kernel(
    x,  # (N, C, P) map, its rows one after the other
    weight,  # (C,)
    bias,  # (C,), not read unless CENTRED
    out,  # (N, C, P)
    x_n,  # strides of x
    x_c,
    x_p,
    out_n,  # strides of out
    out_c,
    out_p,
    pixels,  # P
    channels,  # C
    eps,
    CENTRED: tl.constexpr,  # whether the mean is subtracted and the bias added
    PIXELS: tl.constexpr,  # of a program
    CHANNELS: tl.constexpr,  # C or more, a power of two
    WIDE: tl.constexpr,  # the type of the statistics
):
    count = tl.cdiv(pixels, PIXELS)
    n = (tl.program_id(0) // count).to(tl.int64)
    p = (tl.program_id(0) % count).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    c = tl.arange(0, CHANNELS).to(tl.int64)
    real = c < channels
    inside = (p < pixels)[:, None] & real[None, :]
    values = tl.load(x + n * x_n + p[:, None] * x_p + c[None, :] * x_c, mask=inside, other=0.0).to(WIDE)
    mean = tl.sum(values, 1) / channels
    centred = tl.where(real[None, :], values - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 1) / channels + eps)
    scaled = (centred if CENTRED else values) * scale[:, None] * tl.load(weight + c, mask=real, other=0.0).to(WIDE)[None, :]
    if CENTRED:
        scaled += tl.load(bias + c, mask=real, other=0.0).to(WIDE)[None, :]
    tl.store(out + n * out_n + p[:, None] * out_p + c[None, :] * out_c, scaled.to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype | None = None) -> Tensor:
    """As `channel_layer_norm`, in this type, or that of x; the layout of x is kept."""
    n, c, h, w = x.shape
    out = torch.empty(x.shape, dtype=dtype or x.dtype, device=x.device, memory_format=layout_of(x))
    rows, out_rows = x.flatten(2), out.view(n, c, h * w)
    block = power_of_2(c)
    pixels = max(1, _ELEMENTS // block)
    with torch.cuda.device_of(x):
        layer_norm_kernel[(n * blocks(h * w, pixels),)](
            rows,
            weight.contiguous(),
            weight if bias is None else bias.contiguous(),
            out_rows,
            *rows.stride(),
            *out_rows.stride(),
            h * w,
            c,
            eps,
            CENTRED=bias is not None,
            PIXELS=pixels,
            CHANNELS=block,
            WIDE=tl.float64 if x.dtype == torch.float64 else tl.float32,
        )
    return out

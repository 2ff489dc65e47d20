"""Gates: one pass over the maps, the borders of a smaller gate replicated by clamped positions, so that nothing is padded."""

from functools import reduce

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, layout_of

_ELEMENTS = 2048  # of a program


@triton.jit
def _kernel(
    x,  # (N, C, H, W) dense, in the order of memory that LAST says
    gate,  # (N, C, h, w) of any strides
    added,  # as x; not read unless ADDS
    out,  # as x
    total,  # elements of x
    channels,  # C
    height,  # H
    width,  # W
    gate_height,  # h
    gate_width,  # w
    gate_n,  # strides of the gate, 0 where it is the same for all
    gate_c,
    gate_h,
    gate_w,
    ADDS: tl.constexpr,
    LAST: tl.constexpr,  # channels_last
    BLOCK: tl.constexpr,  # elements of a program
    WIDE: tl.constexpr,  # the type of the arithmetic
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < total
    if LAST:
        c = i % channels
        column = i // channels % width
        row = i // channels // width % height
    else:
        column = i % width
        row = i // width % height
        c = i // width // height % channels
    n = i // channels // width // height
    row = tl.minimum(tl.maximum(row - (height - gate_height) // 2, 0), gate_height - 1)
    column = tl.minimum(tl.maximum(column - (width - gate_width) // 2, 0), gate_width - 1)
    value = tl.load(x + i, mask=inside, other=0.0).to(WIDE)
    value *= tl.load(gate + n * gate_n + c * gate_c + row * gate_h + column * gate_w, mask=inside, other=0.0).to(WIDE)
    if ADDS:
        value += tl.load(added + i, mask=inside, other=0.0).to(WIDE)
    tl.store(out + i, value.to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, gate: Tensor, added: Tensor | None) -> Tensor:
    """As `gated`; the layout of x is kept."""
    n, c, h, w = x.shape
    layout = layout_of(x)
    dtype = reduce(torch.promote_types, (t.dtype for t in (x, gate, added) if t is not None))
    out = torch.empty(x.shape, dtype=dtype, device=x.device, memory_format=layout)
    x = x.contiguous(memory_format=layout)
    gate = gate.expand(n, c, -1, -1)
    with torch.cuda.device_of(x):
        _kernel[(blocks(x.numel(), _ELEMENTS),)](
            x,
            gate,
            x if added is None else added.contiguous(memory_format=layout),
            out,
            x.numel(),
            c,
            h,
            w,
            *gate.shape[-2:],
            *gate.stride(),
            ADDS=added is not None,
            LAST=layout == torch.channels_last,
            BLOCK=_ELEMENTS,
            WIDE=tl.float64 if dtype == torch.float64 else tl.float32,
        )
    return out

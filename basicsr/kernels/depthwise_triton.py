"""Depthwise 3x3 convolutions: a program walks down some rows of a strip, and keeps two rows of sums that are not complete.

So every row is loaded once from memory, three times, for the columns on both sides, from the cache. Sums are float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.layout import blocks, power_of_2


@triton.jit
def _taps(weight, c, real, WIDE: tl.constexpr):
    """The nine taps of some channels."""
    return (
        tl.load(weight + c * 9, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 1, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 2, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 3, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 4, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 5, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 6, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 7, mask=real, other=0.0).to(WIDE)[None, :],
        tl.load(weight + c * 9 + 8, mask=real, other=0.0).to(WIDE)[None, :],
    )


@triton.jit
def _row(place, step, at_left, at_middle, at_right):
    """Some columns of a row, with those to their left and to their right."""
    return (
        tl.load(place - step, mask=at_left, other=0.0),
        tl.load(place, mask=at_middle, other=0.0),
        tl.load(place + step, mask=at_right, other=0.0),
    )


@triton.jit
def share_below(x, bell):
    """The normal distribution's share below x, off by 1.5e-7 at most (Abramowitz and Stegun, Handbook of Mathematical
    Functions, 7.1.26), in half the time that erf takes; bell: exp(-x^2 / 2)."""
    t = 1 / (1 + 0.2316419 * tl.abs(x))
    tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
    tail *= bell
    return tl.where(x < 0, tail, 1 - tail)


@triton.jit
def _gelu(x, EXACT: tl.constexpr):
    """x times the normal distribution's share below it; exact where results are not rounded to 16 bits."""
    if EXACT:
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    return x * share_below(x, tl.exp(-0.5 * x * x))


@triton.jit
def depthwise_kernel(
    x,  # (N, H, W, C), dense
    weight,  # (C, 9), dense
    bias,  # (C,), not read unless BIASED
    out,  # (N, H, W, outputs), dense
    height,  # H
    width,  # W
    inputs,  # C
    outputs,  # C, or half of it with a gate
    GATE: tl.constexpr,  # 0: none, 1: a product of the halves, 2: with GELU
    BIASED: tl.constexpr,
    ROWS: tl.constexpr,  # of a program
    COLUMNS: tl.constexpr,  # of a program
    CHANNELS: tl.constexpr,  # outputs of a program
    WIDE: tl.constexpr,  # the type of the sums
    EXACT: tl.constexpr,  # whether results have more than 16 bits
):
    strips, bands, parts = tl.cdiv(width, COLUMNS), tl.cdiv(height, ROWS), tl.cdiv(outputs, CHANNELS)
    c = tl.program_id(0) % parts * CHANNELS + tl.arange(0, CHANNELS)
    column = tl.program_id(0) // parts % strips * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(0) // parts // strips % bands * ROWS
    n = (tl.program_id(0) // parts // strips // bands).to(tl.int64)
    real = c < outputs
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = _taps(weight, c, real, WIDE)
    nothing = tl.zeros((COLUMNS, CHANNELS), WIDE)
    above, here = nothing, nothing  # sums of the rows before this one and of this one, as far as they are known
    start, gate_start, gate_above, gate_here = nothing, nothing, nothing, nothing
    if BIASED:
        start += tl.load(bias + c, mask=real, other=0.0).to(WIDE)[None, :]
    if GATE:
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = _taps(weight + outputs * 9, c, real, WIDE)
        if BIASED:
            gate_start += tl.load(bias + outputs + c, mask=real, other=0.0).to(WIDE)[None, :]
    at_left = ((column > 0) & (column <= width))[:, None] & real[None, :]
    at_middle = (column < width)[:, None] & real[None, :]
    at_right = (column + 1 < width)[:, None] & real[None, :]
    read = column[:, None] * inputs + c[None, :]
    write = column[:, None] * outputs + c[None, :]
    x += n * height * width * inputs
    out += n * height * width * outputs
    # The next row is loaded before this one is worked on.
    rows = first - 1 + tl.zeros((1, 1), tl.int32)  # a block: Triton's interpreter takes no mask of one value
    exists = (rows >= 0) & (rows < height)
    place = x + (first - 1).to(tl.int64) * width * inputs + read
    left, middle, right = _row(place, inputs, at_left & exists, at_middle & exists, at_right & exists)
    if GATE:
        gate_left, gate_middle, gate_right = _row(
            place + outputs, inputs, at_left & exists, at_middle & exists, at_right & exists
        )
    for i in range(0, ROWS + 2):
        row = first + i - 1
        rows = row + tl.zeros((1, 1), tl.int32)
        exists = (rows + 1 >= 0) & (rows + 1 < height)
        place = x + (row + 1).to(tl.int64) * width * inputs + read
        before, at, after = left.to(WIDE), middle.to(WIDE), right.to(WIDE)
        left, middle, right = _row(place, inputs, at_left & exists, at_middle & exists, at_right & exists)
        done = above + before * w20 + at * w21 + after * w22
        above = here + before * w10 + at * w11 + after * w12
        here = start + before * w00 + at * w01 + after * w02
        if GATE:
            before, at, after = gate_left.to(WIDE), gate_middle.to(WIDE), gate_right.to(WIDE)
            gate_left, gate_middle, gate_right = _row(
                place + outputs, inputs, at_left & exists, at_middle & exists, at_right & exists
            )
            gate_done = gate_above + before * v20 + at * v21 + after * v22
            gate_above = gate_here + before * v10 + at * v11 + after * v12
            gate_here = gate_start + before * v00 + at * v01 + after * v02
            if GATE == 2:
                done = _gelu(done, EXACT)
            done *= gate_done
        tl.store(
            out + (row - 1).to(tl.int64) * width * outputs + write,
            done.to(out.dtype.element_ty),
            mask=at_middle & (rows > first) & (rows <= height),
        )


def launch(x: Tensor, weight: Tensor, bias: Tensor | None, gate: str | None) -> Tensor:
    """As `depthwise`, the whole map; x and the result are channels_last."""
    n, inputs, h, w = x.shape
    outputs = inputs // 2 if gate else inputs
    wide = torch.promote_types(x.dtype, torch.float32)
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty(n, h, w, outputs, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    rows, columns, channels, warps = config(h, outputs, gate is not None)
    with torch.cuda.device_of(x):
        depthwise_kernel[(n * blocks(h, rows) * blocks(w, columns) * blocks(outputs, channels),)](
            x,
            weight.contiguous(),
            weight if bias is None else bias,
            out,
            h,
            w,
            inputs,
            outputs,
            GATE={None: 0, "product": 1, "gelu": 2}[gate],
            BIASED=bias is not None,
            ROWS=rows,
            COLUMNS=columns,
            CHANNELS=channels,
            EXACT=x.dtype.itemsize > 2,
            WIDE=tl.float64 if wide == torch.float64 else tl.float32,
            num_warps=warps,
        )
    return out


def config(height: int, channels: int, gated: bool) -> tuple[int, int, int, int]:
    """Rows, columns and channels of a program, and warps, that were fastest on an H100."""
    across = max(16, min(64, power_of_2(channels)))
    if not gated:
        return 32 if height > 128 else 16, 16 * 32 // min(across, 32), min(across, 32), 4
    return 32 if height > 128 else 16, 8 * 64 // across, across, 4

"""1x1 convolutions: a program keeps some pixels with all their channels on the chip, and multiplies them by tiles of weights.

So what comes before the product, such as a layer norm, is computed once and never written. Products are added up in float32,
and rounded when all is done.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.cells import Cells
from basicsr.kernels.layout import blocks, evenly_spaced, pixel_step, power_of_2

_FACTORS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
_PROGRAMS = 256  # that keep a GPU busy


@triton.jit
def pointwise_kernel(
    x,  # (N, C or 2C, H, W), its channels neighbours in memory
    weight,  # (K, C) of an image and a cell
    bias,  # (K,), not read unless BIASED
    scale,  # (K,), not read unless SCALED
    added,  # (N, K, H, W), its channels neighbours; not read unless ADDS
    out,  # (N, K, H, W), its channels neighbours
    norm_weight,  # (C,), not read unless NORMS
    norm_bias,  # (C,), or None: not read unless CENTRED
    eps,  # of the norm
    gate,  # (N, C, h, w), not read unless GATES
    cells,  # (cells, 4): top, left, height, width; not read unless CELLS
    x_step,  # from pixel to pixel
    added_step,
    weight_n,  # from image to image
    weight_cell,  # from cell to cell
    gate_n,
    gate_c,
    gate_h,
    gate_w,
    inputs,  # C
    outputs,  # K
    height,  # H
    width,  # W
    gate_height,  # h
    gate_width,  # w
    cell_count,
    pixel_blocks,  # of a cell
    output_blocks,  # of STEPS tiles each
    NORMS: tl.constexpr,
    CENTRED: tl.constexpr,  # whether the norm takes off the mean and adds a bias
    GATES: tl.constexpr,
    HALVES: tl.constexpr,
    RELU: tl.constexpr,
    BIASED: tl.constexpr,
    SCALED: tl.constexpr,
    ADDS: tl.constexpr,
    CELLS: tl.constexpr,
    PIXELS: tl.constexpr,  # of a program
    INPUTS: tl.constexpr,  # C or more, a power of two
    OUTPUTS: tl.constexpr,  # of a tile
    STEPS: tl.constexpr,  # tiles of a program
    FACTOR: tl.constexpr,  # the type that is multiplied
):
    part = tl.program_id(0) % output_blocks
    block = tl.program_id(0) // output_blocks % pixel_blocks
    cell = tl.program_id(0) // output_blocks // pixel_blocks % cell_count
    n = (tl.program_id(0) // output_blocks // pixel_blocks // cell_count).to(tl.int64)
    i = block * PIXELS + tl.arange(0, PIXELS)
    if CELLS:
        top, left = tl.load(cells + cell * 4), tl.load(cells + cell * 4 + 1)
        rows, columns = tl.load(cells + cell * 4 + 2), tl.load(cells + cell * 4 + 3)
        if block * PIXELS >= rows * columns:  # there are as many programs for each cell as the largest one needs
            return
    else:
        top, left, rows, columns = 0, 0, height, width
    row, column = top + i // columns, left + i % columns
    inside = i < rows * columns
    pixel = (n * height + row) * width + column
    c = tl.arange(0, INPUTS)
    real = c < inputs
    both = inside[:, None] & real[None, :]
    place = x + (pixel * x_step)[:, None] + c[None, :]
    factor = tl.load(place, mask=both, other=0.0)
    if NORMS:
        values = factor.to(tl.float32)
        mean = tl.sum(values, 1) / inputs
        centred = tl.where(real[None, :], values - mean[:, None], 0.0)
        inverse = 1 / tl.sqrt(tl.sum(centred * centred, 1) / inputs + eps)
        norm_scale = tl.load(norm_weight + c, mask=real, other=0.0).to(tl.float32)
        values = (centred if CENTRED else values) * inverse[:, None] * norm_scale[None, :]
        if CENTRED:
            values += tl.load(norm_bias + c, mask=real, other=0.0).to(tl.float32)[None, :]
        factor = values.to(factor.dtype)
    if HALVES:
        factor = (factor.to(tl.float32) * tl.load(place + inputs, mask=both, other=0.0).to(tl.float32)).to(factor.dtype)
    if GATES:
        gate_row = tl.minimum(tl.maximum(row - (height - gate_height) // 2, 0), gate_height - 1)
        gate_column = tl.minimum(tl.maximum(column - (width - gate_width) // 2, 0), gate_width - 1)
        gate_place = gate + n * gate_n + (gate_row.to(tl.int64) * gate_h + gate_column.to(tl.int64) * gate_w)[:, None]
        gate_place += c.to(tl.int64)[None, :] * gate_c
        factor = (factor.to(tl.float32) * tl.load(gate_place, mask=both, other=0.0).to(tl.float32)).to(factor.dtype)
    if RELU:
        factor = tl.maximum(factor.to(tl.float32), 0.0).to(factor.dtype)
    factor = factor.to(FACTOR)
    weight += n * weight_n + cell.to(tl.int64) * weight_cell
    for step in range(0, STEPS):
        k = (part * STEPS + step) * OUTPUTS + tl.arange(0, OUTPUTS)
        made = k < outputs
        tile = tl.load(weight + k[None, :] * inputs + c[:, None], mask=made[None, :] & real[:, None], other=0.0)
        total = tl.dot(factor, tile.to(FACTOR), input_precision="ieee")
        if BIASED:
            total += tl.load(bias + k, mask=made, other=0.0).to(tl.float32)[None, :]
        if SCALED:
            total *= tl.load(scale + k, mask=made, other=0.0).to(tl.float32)[None, :]
        kept = inside[:, None] & made[None, :]
        if ADDS:
            total += tl.load(added + (pixel * added_step)[:, None] + k[None, :], mask=kept, other=0.0).to(tl.float32)
        tl.store(out + (pixel * outputs)[:, None] + k[None, :], total.to(out.dtype.element_ty), mask=kept)


def launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm=None,
    gate: Tensor | None = None,
    halves: bool = False,
    relu: bool = False,
    scale: Tensor | None = None,
    added: Tensor | None = None,
    cells: Cells | None = None,
) -> Tensor:
    """As `pointwise`; x is channels_last.

    Args:
        weight: (K, C), or (cells, N, K, C), a matrix for each cell of each image, dense.
    """
    n, _, h, w = x.shape
    outputs, inputs = weight.shape[-2:]
    out = torch.empty(n, h, w, outputs, dtype=x.dtype, device=x.device).permute(0, 3, 1, 2)
    adds, x = added is not None, evenly_spaced(x)
    added = evenly_spaced(added) if adds else x
    gates = x if gate is None else gate.expand(n, inputs, -1, -1)
    wide = max(16, power_of_2(inputs))
    pixels, tile, warps, stages = config(wide, outputs)
    count, largest = (cells.count, cells.largest) if cells else (1, h * w)
    programs, tiles = n * count * blocks(largest, pixels), blocks(outputs, tile)
    steps = blocks(tiles, min(tiles, max(1, _PROGRAMS // max(1, programs))))  # of a program: more of them for small maps
    with torch.cuda.device_of(x):
        pointwise_kernel[(programs * blocks(tiles, steps),)](
            x,
            weight,
            weight if bias is None else bias,
            weight if scale is None else scale,
            added,
            out,
            *((weight, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)),
            gates,
            cells.places(x.device) if cells else x,
            pixel_step(x),
            pixel_step(added),
            *((0, 0) if weight.ndim == 2 else (weight.stride(1), weight.stride(0))),
            *(0 if size == 1 else stride for size, stride in zip(gates.shape, gates.stride(), strict=True)),
            inputs,
            outputs,
            h,
            w,
            *gates.shape[-2:],
            count,
            blocks(largest, pixels),
            blocks(tiles, steps),
            NORMS=norm is not None,
            CENTRED=norm is not None and norm.bias is not None,
            GATES=gate is not None,
            HALVES=halves,
            RELU=relu,
            BIASED=bias is not None,
            SCALED=scale is not None,
            ADDS=adds,
            CELLS=cells is not None,
            PIXELS=pixels,
            INPUTS=wide,
            OUTPUTS=tile,
            STEPS=steps,
            FACTOR=_FACTORS[x.dtype] if x.is_cuda else tl.float32,  # Triton's interpreter multiplies the bits of bfloat16
            num_warps=warps,
            num_stages=stages,
        )
    return out


def config(inputs: int, outputs: int) -> tuple[int, int, int, int]:
    """Pixels of a program, outputs of a tile, warps and stages that were fastest on an H100."""
    pixels, tile, warps, stages = (64, 64, 4, 2) if inputs <= 128 else (64, 32, 4, 1) if inputs <= 256 else (64, 32, 8, 2)
    return pixels, max(16, min(power_of_2(outputs), tile)), warps, stages

"""Sums of products over a map: a program multiplies one chunk of pixels of one head on tensor cores, and torch adds the chunks.

The map is read once, whatever its strides, and nothing is copied, squared or converted in memory. Chunks are added in a fixed
order: the same input gives the same sums.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from basicsr.kernels.cells import Cells
from basicsr.kernels.layout import blocks, power_of_2, steps

_PIXELS = 64  # of a step
_STEPS = 16  # of a program
_FACTORS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def gram_kernel(
    q,  # (N, heads, C, H, W)
    k,  # (N, heads, C, H, W)
    cells,  # (cells, 4): top, left, height, width; not read unless CELLS
    out,  # (cells * N * heads, chunks, C, C + 2) dense: q k^T of a chunk, then the squared norms of q's and of k's channels;
    # zeros where a cell has no such chunk
    q_n,  # strides of q
    q_head,
    q_c,
    q_h,
    q_w,
    k_n,  # strides of k
    k_head,
    k_c,
    k_h,
    k_w,
    heads,
    channels,  # C
    batches,  # N * heads
    height,  # H
    width,  # W
    chunks,  # of a cell
    CELLS: tl.constexpr,
    CHANNELS: tl.constexpr,  # of a program, 16 or more, which tensor cores want
    PIXELS: tl.constexpr,  # of a step
    STEPS: tl.constexpr,  # of a program
    FACTOR: tl.constexpr,  # the type that is multiplied
):
    tiles = tl.cdiv(channels, CHANNELS)  # of q's channels, and of k's
    tile_q, tile_k = tl.program_id(0) % tiles, tl.program_id(0) // tiles % tiles
    chunk = tl.program_id(0) // tiles // tiles % chunks
    batch = (tl.program_id(0) // tiles // tiles // chunks % batches).to(tl.int64)
    cell = (tl.program_id(0) // tiles // tiles // chunks // batches).to(tl.int64)
    if CELLS:
        top, left = tl.load(cells + cell * 4), tl.load(cells + cell * 4 + 1)
        rows, columns = tl.load(cells + cell * 4 + 2), tl.load(cells + cell * 4 + 3)
        if chunk * STEPS * PIXELS >= rows * columns:  # there are as many chunks of each cell as the largest one needs
            return
    else:
        top, left, rows, columns = 0, 0, height, width
    pixels = rows * columns
    c_q = (tile_q * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    c_k = (tile_k * CHANNELS + tl.arange(0, CHANNELS)).to(tl.int64)
    q += batch // heads * q_n + batch % heads * q_head
    k += batch // heads * k_n + batch % heads * k_head
    products = tl.zeros((CHANNELS, CHANNELS), tl.float32)
    squares_q = tl.zeros((CHANNELS,), tl.float32)
    squares_k = tl.zeros((CHANNELS,), tl.float32)
    for step in range(0, STEPS):
        p = (chunk * STEPS + step) * PIXELS + tl.arange(0, PIXELS)
        row, column = (top + p // columns).to(tl.int64), (left + p % columns).to(tl.int64)
        inside_q = (c_q < channels)[:, None] & (p < pixels)[None, :]
        inside_k = (p < pixels)[:, None] & (c_k < channels)[None, :]
        part_q = tl.load(q + c_q[:, None] * q_c + (row * q_h + column * q_w)[None, :], mask=inside_q, other=0.0)
        part_k = tl.load(k + (row * k_h + column * k_w)[:, None] + c_k[None, :] * k_c, mask=inside_k, other=0.0)
        products = tl.dot(part_q.to(FACTOR), part_k.to(FACTOR), products, input_precision="ieee")
        squares_q += tl.sum(part_q.to(tl.float32) * part_q.to(tl.float32), 1)
        squares_k += tl.sum(part_k.to(tl.float32) * part_k.to(tl.float32), 0)
    out += ((cell * batches + batch) * chunks + chunk) * channels * (channels + 2)
    line_q, line_k = c_q * (channels + 2), c_k * (channels + 2)
    tl.store(out + line_q[:, None] + c_k[None, :], products, mask=(c_q < channels)[:, None] & (c_k < channels)[None, :])
    if tile_k == 0:
        tl.store(out + line_q + channels, squares_q, mask=c_q < channels)
    if tile_q == 0:
        tl.store(out + line_k + channels + 1, squares_k, mask=c_k < channels)


def launch(q: Tensor, k: Tensor, cells: Cells | None) -> tuple[Tensor, Tensor, Tensor]:
    """As `gram`, of float32 and half precision."""
    n, heads, c, h, w = q.shape
    block = min(64, max(16, power_of_2(c)))
    number, pixels = (cells.count, cells.largest) if cells else (1, h * w)
    count = min(_STEPS, steps(blocks(pixels, _PIXELS)))
    chunks = blocks(pixels, _PIXELS * count)
    memory = torch.empty if cells is None else torch.zeros
    parts = memory(number, n * heads, chunks, c, c + 2, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):
        gram_kernel[(number * n * heads * chunks * blocks(c, block) ** 2,)](
            q,
            k,
            cells.places(q.device) if cells else q,
            parts,
            *q.stride(),
            *k.stride(),
            heads,
            c,
            n * heads,
            h,
            w,
            chunks,
            CELLS=cells is not None,
            CHANNELS=block,
            PIXELS=_PIXELS,
            STEPS=count,
            FACTOR=_FACTORS[q.dtype] if q.is_cuda else tl.float32,  # Triton's interpreter multiplies the bits of bfloat16
        )
    sums = parts.sum(2).unflatten(1, (n, heads))  # (cells, N, heads, C, C + 2)
    sums = sums if cells else sums[0]
    return sums[..., :c], sums[..., c], sums[..., c + 1]
